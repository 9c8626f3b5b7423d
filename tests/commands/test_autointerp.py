"""`explain` and `score` by a language model behind a local server, from the command line: estimate,
caps, resumption without paying twice, baselines, people's own words, JSON."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import run
from data.judged_store import asked_of, results_of
from data.lab import open_lab
from data.runs_store import read_results
from data.schema import open_root
from data.workspace import Workspace
from tests.ui.small_store import DEAD, SINGLE, write_workspace

FEATURES = "2,3,5,7"


class Model(BaseHTTPRequestHandler):
    """Speaks chat completions: explains by a marked word, predicts 8 where that word stands."""

    def do_POST(self) -> None:  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        text = body["messages"][-1]["content"]
        answer = json.dumps(self.answer(text))
        reply = {
            "id": "1", "object": "chat.completion", "created": 0, "model": "fake-1",
            "choices": [{"index": 0, "finish_reason": "stop",
                         "message": {"role": "assistant", "content": answer}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }  # fmt: skip
        raw = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def answer(self, text: str) -> dict:
        if not text.startswith("EXPLANATION: "):
            strong = re.findall(r'^(".*")\t(?:[5-9]|10)$', text, re.M)
            return {"explanation": f"the word {strong[0]}" if strong else "nothing"}
        head, *parts = re.split(r"^TEXT \d+\n", text, flags=re.M)
        word = re.search(r'the word (".*")', head)
        texts = []
        for number, part in enumerate(parts, 1):
            tokens = re.findall(r"^\d+: (.*)$", part, re.M)
            if tokens:
                hits = [{"token": n, "level": 8} for n, t in enumerate(tokens, 1)
                        if word and t == word[1]]  # fmt: skip
                texts.append({"text": number, "tokens": len(tokens), "active": hits})
            else:
                texts.append({"text": number, "percent": 90 if word else 10})
        return {"texts": texts}

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def model():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    server.asked = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def where(tmp_path):
    return write_workspace(tmp_path / "w")


def command(words: str, where, model=None, *more: str) -> int:
    judge = [] if model is None else ["--judge", name_of(model)]
    return run.main([*words.split(), *judge, *more, "--workspace", str(where)])


def name_of(model) -> str:
    return f"openai:fake-1@http://127.0.0.1:{model.server_address[1]}/v1"


def run_of(where) -> tuple:
    workspace = Workspace.open(where)
    (name,) = [n for n in workspace.runs("small") if n != "lexical-1"]
    path = workspace.run(name) / "results.duckdb"
    return path, *read_results(open_root(), path)


def test_an_estimate_asks_nobody(where, model, capsys):
    assert command(f"explain small --features {FEATURES} --estimate", where, model) == 0
    assert "4 calls" in capsys.readouterr().out and model.asked == 0
    assert command(f"explain small --features {FEATURES} --estimate --json", where, model) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == 4 and model.asked == 0


def test_explained_scored_and_with_its_baselines(where, model, capsys):
    assert command(f"explain small --features {FEATURES}", where, model) == 0
    assert "4 of 4 features explained" in capsys.readouterr().out and model.asked == 4
    words = "score small --method simulate,detect"
    assert command(words, where, model, "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(told["methods"]) == {"simulate", "detect"} and told["spent"]["calls"] > 4
    path, meta, explanations, scores = run_of(where)
    assert meta["judge"] == meta["scorer"] == name_of(model) and meta["headline"] == "simulate"
    assert explanations[SINGLE].text == 'the word "def"'
    score = scores[SINGLE]
    assert score.status == "ok" and score.value > 0.8 and score.n_ok == score.n <= score.wanted
    arms = {(r.method, r.arm): r for r in results_of(open_root(), path, SINGLE)}
    assert {a for m, a in arms if m == "simulate"} == {"own", "lexical", "shuffled", "empty"}
    assert arms["simulate", "empty"].status == "constant"
    assert arms["simulate", "own"].details["tokens"] == score.n_tokens
    asked = asked_of(open_root(), path, SINGLE)
    assert len(asked) == score.n and all(len(one.calls[0]) == 64 for one in asked)
    assert all(len(one.said) == len(one.ids) for one in asked)


def test_a_capped_run_goes_on_and_pays_for_nothing_twice(where, model, capsys):
    command(f"explain small --features {FEATURES}", where, model)
    before = model.asked
    capped = command("score small --max-calls 6", where, model)
    assert capped == 0 and model.asked <= before + 6
    _, _, _, scores = run_of(where)
    assert any(s.status in ("not_run", "withheld") for s in scores.values())
    assert not any(s.value == 0 for s in scores.values()), "what was not asked is no zero"
    assert command("score small", where, model) == 0
    whole = model.asked
    first = run_of(where)[3]
    assert command("score small", where, model) == 0
    assert model.asked == whole, "all of it was in the cache"
    assert run_of(where)[3] == first


def test_peoples_words_are_scored_in_the_same_way(where, model, capsys):
    lab = open_lab(open_root(), Workspace.open(where))
    lab.label("small", SINGLE, 'the word "def"', who="Ada")
    lab.close()
    assert command("explain small --judge people", where) == 0
    assert "1 of 1 features explained by people" in capsys.readouterr().out
    assert command("score small --run small-people", where, model) == 0
    path = Workspace.open(where).run("small-people") / "results.duckdb"
    _, _, scores = read_results(open_root(), path)
    assert scores[SINGLE].value > 0.8


def test_a_feature_that_never_fires_is_not_put_to_anybody(where, model):
    assert command(f"explain small --features {DEAD},{SINGLE}", where, model) == 0
    assert model.asked == 1
    explanations = run_of(where)[2]
    assert explanations[DEAD].status == "not_run"
    assert command("score small", where, model) == 0
    assert run_of(where)[3][DEAD].status == "not_run"


def test_what_is_wrong_is_one_sentence(where, model, capsys):
    for words, why in (
        ("explain small --protocol x", "no protocol 'x'"),
        ("explain small --candidates 0", "ask for 1 or more"),
        ("explain small --prompt-price 3", "give both prices"),
        ("score small --method x", "no method 'x'"),
        ("score small --baselines x", "no baseline 'x'"),
        ("score small --run nothing", "no run 'nothing'"),
        ("explain small --judge people", "nobody labelled"),
    ):
        judge = None if "people" in words else model
        assert command(words, where, judge) == 2, words
        assert why in capsys.readouterr().err, words
    assert model.asked == 0
    assert run.main(["explain", "small", "--estimate", "--workspace", str(where)]) == 2
    assert "costs nothing" in capsys.readouterr().err

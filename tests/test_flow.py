"""From text to scores through the command door on a tiny random model, and every refusal.

Errors are one line on standard error and exit code 2, and leave nothing half-written behind.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import run
from data.features_store import FeatureStore
from data.runs_store import read_results
from data.schema import open_root
from data.workspace import Workspace
from sae import formats
from tests import tiny
from tests.tiny import one_thread  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
# 52 steps: two more than the warm-up takes.
SMALL = "--d-sae 64 --l0 4 --tokens 106500 --corpus-tokens 4000 --context 16 --site resid_post.1"
METRICS = {
    "l0", "fve", "mse", "ce", "delta_loss", "loss_recovered", "kl", "gamma", "dead", "alive",
    "high_freq_10", "high_freq_1", "n_tokens", "text", "split", "cosine", "l2_ratio",
    "l0_distribution", "loss_recovered_mean", "by_position", "attribution",
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Path]:
    """A model folder, a text, and a Python file's worth of nothing."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "empty.txt").write_text("\n")
    return {
        "lm": tiny.save(folder / "model"),
        "text": tiny.write_jsonl(folder / "text.jsonl", tiny.sentences(150)),
        "empty": folder / "empty.txt",
        "wide": tiny.save(folder / "wide", "gemma"),
    }


def _train(workspace, inputs, name="one", options=""):
    words = f"train {name} {SMALL} --lm {inputs['lm']} --text {inputs['text']} {options}".split()
    return run.main([*words, "--device", "cpu", "--workspace", str(workspace)])


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory) -> Path:
    """A workspace in which everything was done once. To be read only."""
    workspace = tmp_path_factory.mktemp("flow") / "workspace"
    assert _train(workspace, inputs) == 0
    for command in ("evaluate one", "harvest one --top 4", "explain one", "score one"):
        assert run.main([*command.split(), "--workspace", str(workspace)]) == 0, command
    return workspace


@pytest.fixture
def workspace(finished, tmp_path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "workspace"))


def _content(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below `folder`, hidden ones included, with its size and time."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def _refused(capsys, workspace: Path, words: str | list[str]) -> str:
    """The one line that a refused command says."""
    before = _content(workspace)
    words = words.split() if isinstance(words, str) else words
    capsys.readouterr()
    code = run.main([*words, "--workspace", str(workspace)])
    told = capsys.readouterr()
    assert code == 2, told
    lines = [line for line in told.err.splitlines() if ": done in " not in line]
    assert len(lines) == 1 and told.out == "", told
    after = {k: v for k, v in _content(workspace).items() if not k.startswith("activations/")}
    assert after == {k: v for k, v in before.items() if not k.startswith("activations/")}
    half = [p.name for p in workspace.rglob(".*")]
    assert half == [], "something half-written was left"
    return lines[0]


# ---------------------------------------------------------------- the whole way


def test_training_leaves_a_whole_sae(finished):
    workspace = Workspace.open(finished)
    assert workspace.saes == ["one"]
    sae, config = formats.load(workspace.sae("one"))
    assert (sae.d_in, sae.d_sae) == (tiny.WIDTH, 64)
    made = config["metadata"]["workbench"]
    assert Path(made["lm"]).is_absolute() and made["corpus_tokens"] == 4000
    assert config["metadata"]["hook_name"] == "blocks.1.hook_resid_post"
    steps = workspace.training("one")
    assert steps[-1]["step"] == 52 and steps[-1]["tokens"] == 52 * 2048
    assert all(row["loss"] > 0 for row in steps)
    assert len(list((finished / "activations").iterdir())) == 1, "one capture serves all commands"


def test_evaluation_prints_one_json_object_and_keeps_it(finished, workspace, capsys):
    capsys.readouterr()
    assert run.main(["evaluate", "one", "--json", "--workspace", str(workspace)]) == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert set(result) == METRICS and result["split"] == "heldout"
    assert json.loads((workspace / "saes/one/metrics.json").read_text()) == result
    assert result == json.loads((finished / "saes/one/metrics.json").read_text()), "the same again"
    assert 0 < result["fve"] <= 1 and 0.5 < result["l0"] < 32 and result["n_tokens"] > 100
    assert result["dead"] + result["alive"] == 64


def test_evaluation_of_another_text_does_not_replace_the_metrics(
    workspace, inputs, capsys, tmp_path
):
    other = tiny.write_jsonl(tmp_path / "other.jsonl", tiny.sentences(20, seed=5), "body")
    before = (workspace / "saes/one/metrics.json").read_bytes()
    words = f"evaluate one --text {other} --text-field body --tokens 500 --json"
    assert run.main([*words.split(), "--workspace", str(workspace)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["split"] == "all" and result["text"] == str(other)
    assert 500 <= result["n_tokens"] < 500 + 32 * 16
    assert (workspace / "saes/one/metrics.json").read_bytes() == before


def test_evaluation_as_a_table_shows_what_is_undefined(workspace, capsys, tmp_path):
    (tmp_path / "short.jsonl").write_text('{"text": "x"}\n{"text": "y"}\n')
    words = f"evaluate one --text {tmp_path / 'short.jsonl'}"
    assert run.main([*words.split(), "--workspace", str(workspace)]) == 0
    table = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert table["n_tokens"] == "2" and table["delta_loss"] == table["kl"] == "undefined"


def test_the_store_holds_every_feature_and_its_provenance(finished):
    root = open_root()
    store = FeatureStore(root, Workspace.open(finished).feature_store("one"))
    meta = store.meta
    config = Workspace.open(finished).config("one")["metadata"]["workbench"]
    assert store.n_features == 64 and meta["d_in"] == tiny.WIDTH and meta["seed"] == 0
    assert meta["lm_weights"] == config["lm_weights"] and meta["masks"] == config["mask"]
    assert meta["rule"] == config["rule"] and meta["site"] == "resid_post.1"
    assert meta["tokens"] > 4000 and sum(meta["l0_counts"]) == meta["tokens"]
    assert store.summary()["alive"] > 20
    alive = [row.feature for row in store.rows(_all())[0] if row.fires > 50]
    for feature in alive[:5]:
        kinds = {e.kind for e in store.examples(feature)}
        assert kinds == {"top", "quantile", "active", "near_miss", "random"}
        assert len(store.examples(feature, "top")) <= 4
    root.close()


def _all():
    from data.records import FeatureFilter

    return FeatureFilter(page_size=1000)


def test_harvesting_again_gives_the_same_content(workspace):
    def content():
        root = open_root()
        meta = FeatureStore(root, workspace / "saes/one/features.duckdb").meta
        root.close()
        return meta["content_hash"]

    first = content()
    assert run.main(f"harvest one --top 4 --workspace {workspace}".split()) == 0
    assert content() == first
    assert run.main(f"harvest one --top 4 --seed 1 --workspace {workspace}".split()) == 0
    assert content() != first


def test_explanations_and_scores_of_the_run(finished):
    root = open_root()
    folder = Workspace.open(finished).run("one-lexical")
    meta, explanations, scores = read_results(root, folder / "results.duckdb")
    assert meta["sae"] == json.loads((folder / "run.json").read_text())["sae"] == "one"
    assert sorted(explanations) == sorted(scores) == list(range(64))
    store = FeatureStore(root, finished / "saes/one/features.duckdb", folder / "results.duckdb")
    ok = [s for s in scores.values() if s.status == "ok"]
    assert len(ok) > 10 and all(-1 <= s.value <= 1 and s.n_documents > 0 for s in ok)
    for s in scores.values():
        assert (s.value is None) == (s.status != "ok") and (s.status == "ok" or s.reason)
    for feature, explanation in explanations.items():
        fires = any(v for e in store.examples(feature, use="explain") for v in e.values)
        assert (explanation.status == "ok") == fires
    root.close()


def test_a_part_of_the_features_under_a_name_of_ones_own(workspace, capsys):
    mine = f"--run mine --workspace {workspace}"
    assert run.main(f"explain one --features 3:6,8 {mine}".split()) == 0
    assert "of 4 features explained" in capsys.readouterr().out
    root = open_root()

    def scored(features: str) -> dict:
        assert run.main(f"score one --features {features} {mine}".split()) == 0
        _, explanations, scores = read_results(root, workspace / "autointerp/mine/results.duckdb")
        assert sorted(explanations) == [3, 4, 5, 8]
        return scores

    first = scored("0:5")
    assert sorted(first) == [3, 4]
    found = scored("5:")
    assert sorted(found) == [3, 4, 5, 8] and found[3] == first[3], "the others keep theirs"
    assert sorted(scored("all")) == [3, 4, 5, 8]
    assert run.main(f"score one --features 0 {mine}".split()) == 2
    assert "run 'mine' explains none of these features" in capsys.readouterr().err
    root.close()


def test_a_run_of_another_sae_is_not_overwritten(workspace, capsys):
    shutil.copytree(workspace / "saes/one", workspace / "saes/two")
    line = _refused(capsys, workspace, "explain two --run one-lexical")
    assert "explains one by lexical: choose another --run" in line


def test_the_same_seed_gives_the_same_weights(finished, inputs, tmp_path):
    assert _train(tmp_path / "again", inputs) == 0
    weights = "saes/one/sae_weights.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (finished / weights).read_bytes()


@pytest.mark.parametrize(
    ("family", "options", "has_effects"),
    [
        ("gemma2", "--site attn_z.1 --pack", True),
        ("gpt2", "--site mlp_out.0 --dtype bfloat16 --skip-first 2 --per-document 2", True),
        ("gpt_neox", "--site hook:gpt_neox.layers.0.mlp.act:output", False),
    ],
)
def test_other_families_sites_and_ways_to_cut_text(family, options, has_effects, inputs, tmp_path):
    workspace = tmp_path / "my workspace"
    texts = tiny.write_texts(tmp_path / "my texts", tiny.sentences(150, seed=4))
    model = tiny.save(tmp_path / "model", family)
    at = ["--workspace", str(workspace)]
    train = f"train one {SMALL} --lm {model} {options} --device cpu".split()
    assert run.main([*train, "--text", str(texts), *at]) == 0
    for command in (
        "evaluate one",
        "harvest one --top 3 --tokens 2000",
        "explain one",
        "score one",
    ):
        assert run.main([*command.split(), *at]) == 0, command
    root = open_root()
    store = FeatureStore(root, workspace / "saes/one/features.duckdb")
    assert store.summary()["alive"] > 10
    (feature, *_) = [r.feature for r in store.rows(_all())[0] if r.fires > 20]
    effect = store.logits(feature)
    assert (effect is not None and len(effect.top_ids) == 10) == has_effects
    assert len(store.examples(feature, "top")) == 3
    _, _, scores = read_results(root, workspace / "autointerp/one-lexical/results.duckdb")
    assert sum(s.status == "ok" for s in scores.values()) > 3
    root.close()


# ---------------------------------------------------------------- refusals


def test_a_taken_name_is_refused_and_with_replace_made_anew(workspace, inputs, capsys):
    words = f"train one {SMALL} --lm {inputs['lm']} --text {inputs['text']}"
    line = _refused(capsys, workspace, words)
    assert "saes/one exists already" in line and "--replace" in line
    early = _refused(capsys, workspace, "train one --lm /no/such/model --text /none")
    assert early == line, "before anything is loaded or read"
    before = (workspace / "saes/one/sae_weights.safetensors").read_bytes()
    assert _train(workspace, inputs, options="--replace --seed 3") == 0
    assert (workspace / "saes/one/sae_weights.safetensors").read_bytes() != before
    assert not (workspace / "saes/one/features.duckdb").exists(), "the old results went with it"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--d-sae 0", "d_sae is 0"),
        ("--d-sae -5", "d_sae is -5"),
        ("--d-sae 1000000000", "d_sae is 1000000000"),
        ("--l0 0", "at least 1"),
        ("--l0 -3", "at least 1"),
        ("--l0 1e9", "more than half of 64 features"),
        ("--l0 nan", "--l0 nan"),
        ("--tokens 0", "tokens is 0"),
        ("--tokens -1e6", "tokens is -1000000"),
        ("--tokens inf", "--tokens inf"),
        ("--tokens 100", "do not fill one batch"),
        ("--tokens 50000", "warm-up takes 50"),
        ("--corpus-tokens 0", "less than one token"),
        ("--corpus-tokens nan", "--corpus-tokens nan"),
        ("--context 3", "too short"),
        ("--context 100000", "longer than the 64 tokens"),
        ("--skip-first 15", "leaves nothing of 16"),
        ("--per-document 0", "--per-document 0"),
        ("--chat", "no chat template"),
        ("--site resid_post.3", "3 blocks, 0 to 2"),
        ("--site nowhere.1", "no site 'nowhere.1'"),
        ("--site hook:model.layers:output", "no activations"),
        ("--arch cubist", "no recipe for architecture 'cubist'"),
        ("--preset best", "preset 'best' is unknown"),
        ("--coefficient 0.1", "to set lambda yourself use the deepmind preset"),
        ("--dtype int8", "--dtype 'int8' is unknown"),
        ("--device gpu", "use auto, cpu or cuda"),
        ("--seed -1", "--seed -1"),
        ("--lm /no/such/model", "no model folder at"),
        ("--lm nobody/no-such-model", "HF_HUB_OFFLINE"),
        ("--text {empty}", "every document is empty"),
        ("--text /no/such/text.txt", "no text at"),
        ("--text-field body", "no text field 'body'"),
    ],
)
def test_absurd_options_are_refused_before_anything_is_made(
    options, says, inputs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = Workspace.open(tmp_path / "workspace").root
    common = f"train one {SMALL} --lm {inputs['lm']} --text {inputs['text']} --device cpu"
    line = _refused(capsys, folder, f"{common} {options.format(**inputs)}")
    assert says in line
    assert not (folder / "saes" / "one").exists()


@pytest.mark.parametrize("name", ["../outside", "a/b", ".hidden", "", "a b", "x" * 121])
def test_names_that_are_no_names_are_refused(name, inputs, tmp_path, capsys):
    folder = Workspace.open(tmp_path / "workspace").root
    words = [
        "train",
        name,
        *SMALL.split(),
        "--lm",
        str(inputs["lm"]),
        "--text",
        str(inputs["text"]),
    ]
    assert "cannot be a name" in _refused(capsys, folder, words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["workspace"]


def test_an_empty_text_argument_does_not_mean_this_folder(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(inputs["text"].parent)
    folder = Workspace.open(tmp_path / "workspace").root
    words = [*f"train one {SMALL} --lm {inputs['lm']} --device cpu --text".split(), ""]
    assert "no text at ''" in _refused(capsys, folder, words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("evaluate two", "no SAE 'two'"),
        ("harvest two", "there is one"),
        ("harvest one --top -1", "--top -1"),
        ("harvest one --tokens 0", "less than one token"),
        ("evaluate one --text /none", "no text at"),
        ("evaluate one --device gpu", "use auto, cpu or cuda"),
        ("explain one --features 9:3", "'9:3' is none"),
        ("explain one --judge nobody", "no judge 'nobody'"),
        ("explain one --run a/b", "cannot be a name"),
        ("score one --run other", "no run 'other'"),
        ("score one --features 9:3", "'9:3' is none"),
        ("score one --method guess", "no method 'guess'"),
    ],
)
def test_bad_requests_to_a_finished_workspace(words, says, workspace, capsys):
    assert says in _refused(capsys, workspace, words)


def test_steps_out_of_order_name_the_one_that_is_missing(workspace, capsys):
    (workspace / "saes/one/features.duckdb").unlink()
    assert "run.py harvest one" in _refused(capsys, workspace, "explain one")


def test_scores_of_explanations_of_an_older_harvest_are_refused(workspace, capsys):
    assert run.main(f"harvest one --seed 5 --workspace {workspace}".split()) == 0
    assert "explain it again" in _refused(capsys, workspace, "score one")


def test_an_sae_that_does_not_fit_its_model_is_refused(workspace, inputs, capsys):
    folder = workspace / "saes/one"
    _, config = formats.load(folder)
    formats.save(tiny.random_sae(torch.randn(50, 10).numpy(), 64), folder, config["metadata"])
    for command in ("evaluate one", "harvest one"):
        assert "width 10, but resid_post.1 of" in _refused(capsys, workspace, command)


def test_an_sae_whose_model_changed_is_refused(workspace, inputs, capsys):
    folder = workspace / "saes/one"
    sae, config = formats.load(folder)
    config["metadata"]["workbench"]["lm"] = str(inputs["wide"])
    formats.save(sae, folder, config["metadata"])
    assert "has other weights" in _refused(capsys, workspace, "evaluate one")


def test_a_damaged_sae_is_refused(workspace, capsys):
    weights = workspace / "saes/one/sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "damaged or cut short" in _refused(capsys, workspace, "harvest one")


def test_a_damaged_cache_is_refused(workspace, capsys):
    (cache,) = (workspace / "activations").iterdir()
    (cache / "activations.f32").write_bytes(b"short")
    assert "it will be made again" in _refused(capsys, workspace, "evaluate one")


def _rewrite_schema(path: Path, number: int) -> None:
    from data import schema

    con = schema.connect(path)
    con.execute("UPDATE meta SET value = ? WHERE key = 'schema'", [str(number)])
    con.close()


def test_a_newer_store_is_refused_with_both_numbers(workspace, capsys):
    _rewrite_schema(workspace / "saes/one/features.duckdb", 999)
    line = _refused(capsys, workspace, "explain one")
    assert "schema 999" in line and "update the program" in line


def test_a_store_that_another_process_writes_names_it(workspace, capsys):
    store = workspace / "saes/one/features.duckdb"
    code = f"import duckdb, time; c = duckdb.connect({str(store)!r}); print(1, flush=True)"
    code += "; time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        line = _refused(capsys, workspace, "explain one")
        assert f"held by process {holder.pid}" in line
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


# ---------------------------------------------------------------- killed


def test_a_killed_training_leaves_no_sae_and_the_next_one_clears_up(inputs, tmp_path):
    workspace = tmp_path / "workspace"
    words = f"train one {SMALL} --tokens 1e9 --lm {inputs['lm']} --text {inputs['text']}"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words.split(), "--workspace", str(workspace)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        end = time.monotonic() + 240
        while not list(workspace.glob("*/.*.part-*")):
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(random.random())  # wherever it is now: in the capture or in the training
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert not (workspace / "saes" / "one").exists() and Workspace.open(workspace).saes == []
    finished = [p for p in (workspace / "activations").iterdir() if not p.name.startswith(".")]
    assert all((p / "manifest.json").exists() for p in finished)
    assert _train(workspace, inputs) == 0
    assert Workspace.open(workspace).saes == ["one"]
    assert [p.name for p in workspace.rglob(".*")] == []


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_a_killed_harvest_leaves_the_old_store_or_the_new_one(workspace, rounds):
    rng = random.Random(rounds)
    store, known = workspace / "saes" / "one" / "features.duckdb", 4  # harvested with --top 4
    for number in range(rounds):
        words = ["harvest", "one", "--top", str(5 + number), "--workspace", str(workspace)]
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        time.sleep(rng.uniform(2, 7))  # imports take about three seconds of it
        process.kill()
        process.wait()
        root = open_root()
        top = FeatureStore(root, store).meta["examples"]["top"]
        root.close()
        assert top in (known, 5 + number)
        known = top
    assert run.main(["harvest", "one", "--top", "3", "--workspace", str(workspace)]) == 0
    left = [p.name for p in store.parent.iterdir() if p.name.startswith(".")]
    assert left == [] and FeatureStore(open_root(), store).meta["examples"]["top"] == 3

"""Replies that are kept: what is one request, what is a sound file, who wins, what is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from data.errors import StoreError, WorkbenchError, WorkspaceError
from data.llm_cache import LlmCache, key_of
from data.llm_record import RunRecord

ROOT = Path(__file__).parents[2]
REQUEST = {
    "endpoint": "https://service/v1",
    "model": "m",
    "messages": [{"role": "user", "text": "Say A."}],
    "schema": {"type": "object", "properties": {"why": {}, "is": {}}},
    "max_tokens": 10,
    "temperature": 0.0,
    "draw": 0,
}
REPLY = {"text": "A", "parsed": None, "usage": {"prompt": 3, "reply": 1}, "ms": 12.5}


@pytest.fixture
def cache(tmp_path) -> LlmCache:
    told: list[str] = []
    made = LlmCache(tmp_path / "llm_cache", told.append)
    made.told = told
    return made


def asking(text: str) -> dict:
    return {**REQUEST, "messages": [{"role": "user", "text": text}]}


def test_what_is_kept_comes_back_whole(cache):
    key = key_of(REQUEST)
    assert cache.get(key) is None and not cache.holds(key)
    cache.put(REQUEST, REPLY)
    entry = LlmCache(cache.folder).get(key)
    assert entry["request"] == REQUEST and entry["reply"] == REPLY and entry["key"] == key
    assert sorted(entry) == ["hash", "key", "reply", "request", "time", "version"]
    assert [p.name for p in cache.folder.iterdir()] == [f"{key}.json"], "nothing beside it"
    assert cache.told == []


def test_a_key_worked_by_hand():
    """SHA-256 over sorted names without blanks; a schema stands as a text in its own order."""
    import hashlib

    said = r'{"a":"\u00e9","draw":0,"schema":"{\"z\": 1, \"b\": 2}"}'
    request = {"schema": {"z": 1, "b": 2}, "draw": 0, "a": "é"}
    assert key_of(request) == hashlib.sha256(said.encode()).hexdigest()


def test_every_part_of_a_request_is_part_of_the_key():
    keys = {key_of(REQUEST)}
    for name, other in (
        ("endpoint", "https://other/v1"),
        ("model", "m2"),
        ("messages", [{"role": "system", "text": "Say A."}]),
        ("schema", None),
        ("schema", {"type": "object", "properties": {"is": {}, "why": {}}}),  # another order
        ("max_tokens", 11),
        ("temperature", 0.5),
        ("draw", 1),
    ):
        keys.add(key_of({**REQUEST, name: other}))
    assert len(keys) == 9
    assert key_of(dict(reversed(REQUEST.items()))) == key_of(REQUEST), "order of names is nothing"


@given(some.text(some.characters(codec=None)), some.floats(allow_nan=True))
def test_any_text_can_be_kept(tmp_path_factory, text, number):
    """Half a surrogate pair, control characters, NaN in a reply: in and out again."""
    cache = LlmCache(tmp_path_factory.mktemp("any"))
    cache.put(asking(text), {"text": text, "parsed": {"n": number}})
    entry = cache.get(key_of(asking(text)))
    assert entry["reply"]["text"] == text
    assert repr(entry["reply"]["parsed"]["n"]) == repr(number)


def test_a_request_that_json_cannot_say_is_refused(cache):
    with pytest.raises(ValueError):
        key_of({"temperature": float("nan")})


# ---------------------------------------------------------------- damage


def _damages(raw: bytes) -> dict[str, bytes]:
    entry = json.loads(raw)
    return {
        "empty": b"",
        "cut": raw[: len(raw) // 2],
        "zeros": bytes(len(raw)),
        "another reply": raw.replace(b'"A"', b'"B"'),
        "another request": json.dumps({**entry, "request": asking("Say B.")}).encode(),
        "no hash": json.dumps({n: v for n, v in entry.items() if n != "hash"}).encode(),
        "a list": b"[1]",
        "no JSON": b"reply: A",
        "deep": b"[" * 100_000,
        "bytes": b"\xff\xfe" + raw,
    }


@pytest.mark.parametrize("damage", _damages(b'{"hash": 1, "request": {}}'))
def test_a_damaged_file_is_told_and_replaced(cache, damage):
    key = key_of(REQUEST)
    cache.put(REQUEST, REPLY)
    path = cache.folder / f"{key}.json"
    path.write_bytes(_damages(path.read_bytes())[damage])
    assert cache.get(key) is None
    assert len(cache.told) == 1 and path.name in cache.told[0] and "damaged" in cache.told[0]
    assert cache.put(REQUEST, {**REPLY, "text": "C"})["reply"]["text"] == "C"
    assert cache.get(key)["reply"]["text"] == "C" and len(cache.told) == 1


def test_a_file_under_another_name_is_no_reply_to_it(cache):
    cache.put(REQUEST, REPLY)
    one, other = key_of(REQUEST), key_of(asking("Say B."))
    (cache.folder / f"{one}.json").rename(cache.folder / f"{other}.json")
    assert cache.get(other) is None and len(cache.told) == 1


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_bit_is_noticed_or_changes_nothing(cache, seed):
    cache.put(REQUEST, REPLY)
    key, where = key_of(REQUEST), random.Random(seed)
    path = cache.folder / f"{key}.json"
    raw = bytearray(path.read_bytes())
    raw[where.randrange(len(raw))] ^= 1 << where.randrange(8)
    path.write_bytes(raw)
    entry = cache.get(key)
    assert entry is None or (entry["request"] == REQUEST and entry["reply"] == REPLY)


# ---------------------------------------------------------------- several at once


def test_of_two_replies_the_first_stays_and_both_are_told_it(cache):
    first = cache.put(REQUEST, REPLY)
    second = cache.put(REQUEST, {**REPLY, "text": "B"})
    assert first["reply"]["text"] == second["reply"]["text"] == "A"


def test_a_file_system_without_links_will_do(cache, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for text in "AB":
        assert cache.put(REQUEST, {**REPLY, "text": text})["reply"]["text"] == "A"
    assert len(list(cache.folder.iterdir())) == 1


def test_a_folder_that_is_taken_away_meanwhile_is_made_again(cache):
    cache.put(REQUEST, REPLY)
    shutil.rmtree(cache.folder)
    cache.put(REQUEST, {**REPLY, "text": "B"})
    assert cache.get(key_of(REQUEST))["reply"]["text"] == "B"


def test_many_threads_agree(cache):
    got: dict[str, set[str]] = {}
    lock = threading.Lock()

    def work(name: int) -> None:
        for n in range(30):
            entry = cache.put(asking(f"{n}"), {"text": f"{name}"})
            with lock:
                got.setdefault(entry["key"], set()).add(entry["reply"]["text"])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 30 and all(len(texts) == 1 for texts in got.values())
    assert cache.size().replies == 30 and not list(cache.folder.glob(".*"))


CHILD = """
import json, sys
from data.llm_cache import LlmCache
folder, name = sys.argv[1:]
cache, got = LlmCache(folder), {}
sys.stdin.readline()
for n in range(200):
    entry = cache.put({"n": n}, {"text": name})
    got[n] = entry["reply"]["text"]
    assert cache.get(entry["key"])["reply"]["text"] == got[n]
print(json.dumps(got))
"""


def test_two_processes_agree(tmp_path):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), name],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        for name in "ab"
    ]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    results = [json.loads(child.communicate()[0]) for child in children]
    assert results[0] == results[1] and len(results[0]) == 200
    assert LlmCache(tmp_path).size().replies == 200


# ---------------------------------------------------------------- listing and removing


def test_listing_size_and_removal(cache):
    for n, text in enumerate(("x", "y", "z")):
        entry = cache.put(asking(text), {"text": text})
        os.utime(cache.folder / f"{entry['key']}.json", (n, n))
    (cache.folder / "notes.json").write_text("{}")
    (cache.folder / f"{'0' * 64}.json").write_text("damaged")
    assert [e["reply"]["text"] for e in cache.entries()] == ["z", "y", "x"]
    assert len(cache.told) == 1
    size = cache.size()
    assert size.replies == 4 and size.bytes == sum(
        (cache.folder / f"{key}.json").stat().st_size for key in cache.keys()
    )
    assert cache.remove([key_of(asking("y")), key_of(asking("never"))]) == 1
    assert [e["reply"]["text"] for e in cache.entries()] == ["z", "x"]


def test_no_folder_is_an_empty_cache(tmp_path):
    cache = LlmCache(tmp_path / "none")
    assert cache.keys() == [] and list(cache.entries()) == [] and cache.size().replies == 0
    assert cache.remove([]) == 0 and not cache.folder.exists()


def test_a_key_leads_nowhere_else(cache):
    for key in ("../lab", "", "A" * 64, "0" * 63):
        with pytest.raises(WorkbenchError, match="is no key"):
            cache.get(key)


def test_left_overs_of_killed_writers_go(cache):
    cache.put(REQUEST, REPLY)
    old, new = (cache.folder / f".{'a' * 64}.part-{pid}-1" for pid in (1, 2))
    for path in (old, new):
        path.write_text("{")
    os.utime(old, (0, time.time() - 7200))
    cache.check_writable()
    assert not old.exists() and new.exists() and cache.size().replies == 1


# ---------------------------------------------------------------- the disk says no


def test_a_folder_that_may_not_be_written(cache, monkeypatch):
    cache.put(REQUEST, REPLY)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    for write in (cache.check_writable, lambda: cache.put(asking("B"), REPLY)):
        with pytest.raises(WorkspaceError, match="Permission denied.*may write"):
            write()
    assert cache.get(key_of(REQUEST))["reply"] == REPLY, "reading needs no such leave"


def test_a_folder_in_whose_place_a_file_stands(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="cannot be written"):
        LlmCache(tmp_path / "file").check_writable()


def test_a_file_that_may_not_be_read(cache, monkeypatch):
    cache.put(REQUEST, REPLY)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(StoreError, match="cannot be read"):
        cache.get(key_of(REQUEST))


FULL = """
import resource, signal, sys
from data.errors import WorkspaceError
from data.llm_cache import LlmCache
from data.llm_record import RunRecord
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
cache = LlmCache(sys.argv[1] + "/cache")
for write in (
    lambda: cache.put({"n": 1}, {"text": "x" * 5000}),
    cache.check_writable,
    lambda: RunRecord(sys.argv[1] + "/calls.jsonl").failed("k", 1, "x" * 500),
):
    try:
        write()
    except WorkspaceError as error:
        print(error)
"""


def test_a_full_disk_is_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, text=True, capture_output=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all("free some space" in line for line in lines), done.stderr
    assert list((tmp_path / "cache").iterdir()) == [], "nothing half written"


# ---------------------------------------------------------------- the record of a run


def test_the_record_of_a_run(tmp_path):
    path = tmp_path / "run" / "calls.jsonl"
    assert RunRecord(path).events() == []
    RunRecord(path).failed("k1", 1, "429", 7.0)
    RunRecord(path).failed("k1", 2, "no answer", None, {"prompt": 9, "reply": 4})
    RunRecord(path).paid("k1", {"prompt": 3, "reply": 1})
    events = RunRecord(path).events()
    assert [(e["event"], e["key"], e["usage"]) for e in events] == [
        ("failed", "k1", {}),
        ("failed", "k1", {"prompt": 9, "reply": 4}),
        ("paid", "k1", {"prompt": 3, "reply": 1}),
    ]
    assert [e["guessed"] for e in events] == [False, True, False]
    assert events[0]["reason"] == "429" and events[0]["retry_after"] == 7.0


def test_a_line_that_was_cut_is_passed_over(tmp_path):
    path = tmp_path / "calls.jsonl"
    RunRecord(path).paid("k1", {})
    with path.open("a") as file:
        file.write('{"event": "pa')
    RunRecord(path).paid("k2", {})
    assert [e["key"] for e in RunRecord(path).events()] == ["k1", "k2"]

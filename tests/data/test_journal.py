"""The journal: nothing acknowledged is lost, nothing damaged is read, whoever writes and dies."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data.errors import StoreError, WorkbenchError
from data.journal import GENESIS, REPAIRED, TAIL, Journal, Position

REPOSITORY = Path(__file__).resolve().parents[2]


def event(text: str, **more) -> dict:
    return {
        "kind": "note",
        "who": "ada",
        "time": "2026-11-21T10:00:00.000000Z",
        "text": text,
        **more,
    }


def texts(journal: Journal) -> list[str]:
    return [entry.event["text"] for entry in journal.read()[0] if "text" in entry.event]


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(tmp_path / "a.jsonl")


# -- the format


def test_a_line_is_what_the_docstring_says(journal):
    """Checked with nothing of the journal's own."""
    journal.append(event("one"))
    journal.append(event("two"))
    first, second = journal.path.read_bytes().splitlines()
    for line, before in [(first, "0" * 64), (second, json.loads(first)["hash"])]:
        found = json.loads(line)
        assert list(found) == ["prev", "event", "hash"] and found["prev"] == before
        body = line[: line.index(b',"hash":"' + found["hash"].encode())]
        assert hashlib.sha256(body).hexdigest() == found["hash"]
    assert json.loads(second)["event"] == event("two")


def test_events_come_back_as_they_were(journal):
    odd = [
        "",
        "a\nb\r\n\u2028\u0000",
        "‮ right to left",
        "日本 🎈 e\u0301",
        '","hash":"' + "0" * 64 + '"}',
        "x" * 99999,
    ]
    for text in odd:
        journal.append(event(text, extra={"list": [1, 2.5, None, True], "": "‮"}))
    entries, end = journal.read()
    assert [entry.event["text"] for entry in entries] == odd
    assert entries[0].event == event("", extra={"list": [1, 2.5, None, True], "": "‮"})
    assert [entry.line for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert end.offset == journal.path.stat().st_size
    assert len(journal.path.read_bytes().splitlines()) == 6


def test_the_genesis_is_what_the_first_line_follows(tmp_path):
    given = hashlib.sha256(b"a registration").hexdigest()
    journal = Journal(tmp_path / "a.jsonl", given)
    assert journal.read() == ([], Position(0, 0, given))
    journal.append(event("one"))
    assert Journal(journal.path, given).verify().line == 1
    with pytest.raises(StoreError, match="damaged in line 1: it does not follow"):
        Journal(journal.path).verify()
    with pytest.raises(WorkbenchError, match="64 hexadecimal"):
        Journal(tmp_path / "b.jsonl", "genesis")


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"who": "a", "time": "t"}, "needs 'kind'"),
        ({"kind": "k", "who": "", "time": "t"}, "needs 'who'"),
        ({"kind": "k", "who": "a", "time": 3}, "needs 'time'"),
        (event("x", odd=float("nan")), "must be JSON"),
        (event("x", odd={1, 2}), "must be JSON"),
        (event("half a character \ud800"), "must be JSON"),
    ],
)
def test_what_is_no_event_is_refused(journal, wrong, match):
    with pytest.raises(WorkbenchError, match=match):
        journal.append(wrong)
    assert not journal.path.exists()


# -- reading on


def test_a_reader_goes_on_where_it_was(journal):
    assert journal.read() == ([], Position(0, 0, GENESIS)) and not journal.changed_since(
        journal.start
    )
    journal.append(event("one"))
    entries, at = journal.read()
    assert len(entries) == 1 and not journal.changed_since(at) and journal.holds(at)
    Journal(journal.path).append(event("two"))  # somebody else
    assert journal.changed_since(at)
    entries, end = journal.read(at)
    assert [(e.line, e.event["text"]) for e in entries] == [(2, "two")]
    assert journal.read(end) == ([], end) and end == journal.verify()


def test_a_position_of_another_file_is_not_held(journal, tmp_path):
    journal.append(event("one"))
    at = journal.append(event("two"))
    other = Journal(tmp_path / "b.jsonl")
    other.append(event("one"))
    other.append(event("tow"))
    assert other.path.stat().st_size == journal.path.stat().st_size
    assert not other.holds(at) and journal.holds(at)
    assert not other.holds(Position(0, 0, "1" * 64)) and other.holds(other.start)
    with pytest.raises(StoreError, match="line 2 is no longer the one that was read"):
        other.read(at)
    other.path.unlink()
    assert not other.holds(at) and other.changed_since(at)


# -- torn and damaged


def test_a_torn_last_line_is_kept_aside_at_every_length(tmp_path):
    """As a writer that is killed leaves it: any part of a line, but for its end."""
    whole = Journal(tmp_path / "whole.jsonl")
    whole.append(event("one"))
    start = whole.path.stat().st_size
    whole.append(event("two"))
    data = whole.path.read_bytes()
    for cut in [*range(start + 1, len(data), 17), len(data) - 1]:
        torn = Journal(tmp_path / f"{cut}.jsonl")
        torn.path.write_bytes(data[:cut])
        assert texts(torn) == ["one"]  # and reading does not mend
        assert torn.path.stat().st_size == cut
        end = torn.append(event("three"))
        assert texts(torn) == ["one", "three"] and end.line == 3 == torn.verify().line
        told = torn.read()[0][1].event
        kept = tmp_path / f"{cut}.jsonl.torn-{start}"
        assert told == {
            "kind": REPAIRED, "who": "journal", "time": event("")["time"], "kept": kept.name,
            "bytes": cut - start, "sha256": hashlib.sha256(data[start:cut]).hexdigest(),
        }  # fmt: skip
        assert kept.read_bytes() == data[start:cut]


def test_a_line_torn_twice_at_one_place_is_kept_twice(journal):
    for remains in (b"abc", b"\0\0\0\0"):  # zeros: the power went before the data was written
        journal.path.write_bytes(remains)
        Journal(journal.path).append(event("x"))
    kept = sorted(journal.path.parent.glob("*.torn-*"))
    assert [path.name for path in kept] == ["a.jsonl.torn-0", "a.jsonl.torn-0-2"]
    assert kept[1].read_bytes() == b"\0\0\0\0"


def changes() -> list[tuple[str, int]]:
    return [("flip", 0), ("flip", 2), ("drop", 1), ("swap", 1), ("twice", 1), ("flip", 3)]


@pytest.mark.parametrize(("what", "at"), changes())
def test_any_change_to_a_whole_line_is_refused_with_its_number(journal, what, at):
    for text in ("one", "two", "three", "four"):
        journal.append(event(text))
    lines = journal.path.read_bytes().splitlines(keepends=True)
    if what == "flip":
        lines[at] = lines[at].replace(b"ada", b"eve")
    elif what == "drop":
        del lines[at]
    elif what == "swap":
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    else:
        lines.insert(at, lines[at])
    number = at + 2 if what == "twice" else at + 1
    journal.path.write_bytes(b"".join(lines))
    damaged = Journal(journal.path)
    for act in (damaged.verify, damaged.read, lambda: damaged.append(event("five"))):
        with pytest.raises(StoreError, match=f"damaged in line {number}: .*keep its first"):
            act()
    assert journal.path.read_bytes() == b"".join(lines)


def test_every_flipped_byte_is_found(journal):
    for text in ("one", "two", "three"):
        journal.append(event(text))
    data = journal.path.read_bytes()
    for at in range(0, len(data) - 1, 7):
        journal.path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(StoreError, match="damaged in line"):
            Journal(journal.path).verify()


def test_a_file_that_is_cut_or_replaced_in_use_is_refused(journal):
    journal.append(event("one"))
    end = journal.path.stat().st_size
    journal.append(event("two"))
    journal.append(event("three"))
    data = journal.path.read_bytes()
    copy = journal.path.with_name("copy")
    copy.write_bytes(data)
    os.replace(copy, journal.path)  # the same again: nobody is harmed
    journal.append(event("four"))
    os.truncate(journal.path, end)
    with pytest.raises(StoreError, match="cut or replaced while it was in use: line 4"):
        journal.append(event("five"))
    assert texts(Journal(journal.path)) == ["one"]  # a new start takes the file as it is


# -- the disk


def test_a_full_disk_adds_nothing(tmp_path):
    """The limit on the size of files stands for a full disk: the write stops half-way."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from data.journal import Journal
from data.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal({str(tmp_path / "a.jsonl")!r})
event = {event("x" * 300)!r}
journal.append(event)
resource.setrlimit(resource.RLIMIT_FSIZE, (700, resource.RLIM_INFINITY))
try:
    journal.append(event)
except StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(event)
print(journal.verify().line)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told, lines = done.stdout.splitlines()
    assert "cannot be written (File too large): nothing was saved" in told and lines == "2"
    assert not list(tmp_path.glob("*.torn-*"))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="folder cannot be opened"):
        Journal(tmp_path / "folder").append(event("x"))
    with pytest.raises(StoreError, match="has no folder"):
        Journal(tmp_path / "none" / "a.jsonl").append(event("x"))


# -- many writers

WRITER = """
import sys, threading
sys.path.insert(0, {repository!r})
from data.journal import Journal
journal = Journal({path!r})
def write(thread):
    for number in range({events}):
        name = f"{{sys.argv[1]}}.{{thread}}.{{number}}"
        journal.append({{"kind": "k", "who": name, "time": "t", "text": "x" * (number % 900)}})
        sys.stdout.write(name + chr(10))  # one write: lines of threads do not mix
        sys.stdout.flush()
threads = [threading.Thread(target=write, args=(i,)) for i in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def start_writer(path: Path, name: str, events: int) -> subprocess.Popen:
    code = WRITER.format(repository=str(REPOSITORY), path=str(path), events=events)
    return subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE, text=True)


def test_many_processes_and_threads_append_at_once(journal):
    writers = [start_writer(journal.path, f"p{i}", 15) for i in range(3)]
    acknowledged = [line for writer in writers for line in writer.communicate()[0].splitlines()]
    assert all(writer.returncode == 0 for writer in writers)
    names = [entry.event["who"] for entry in journal.read()[0]]
    assert sorted(names) == sorted(acknowledged) and len(names) == len(set(names)) == 3 * 3 * 15
    for process in range(3):
        for thread in range(3):
            own = [n for n in names if n.startswith(f"p{process}.{thread}.")]
            assert own == [f"p{process}.{thread}.{number}" for number in range(15)]


def test_what_was_acknowledged_survives_kill_9(journal):
    """Writers are killed at random moments while others go on; three rounds."""
    acknowledged: list[str] = []
    for round in range(3):
        writers = [start_writer(journal.path, f"r{round}p{i}", 10_000) for i in range(2)]
        heard: list[str] = []

        def listen(writer: subprocess.Popen, heard: list[str] = heard) -> None:
            heard.extend(line.strip() for line in writer.stdout if line.endswith("\n"))

        threads = [threading.Thread(target=listen, args=(writer,)) for writer in writers]
        for thread in threads:
            thread.start()
        while len(heard) < 20 + 13 * round:
            time.sleep(0.01)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        for thread in threads:
            thread.join()
        for writer in writers:
            writer.stdout.close()
        acknowledged += heard
    end = journal.append(event("after"))
    names = [entry.event["who"] for entry in journal.read()[0]]
    assert set(acknowledged) <= set(names)
    written = [name for name in names if name != "journal"]
    assert len(written) == len(set(written)), "and nothing stands there twice"
    assert journal.verify() == end


def test_a_reader_beside_writers_sees_whole_lines_only(journal):
    writer = start_writer(journal.path, "p", 40)
    seen, at = 0, journal.start
    while writer.poll() is None or journal.changed_since(at):
        entries, at = journal.read(at)
        assert [entry.line for entry in entries] == list(range(seen + 1, seen + 1 + len(entries)))
        seen += len(entries)
    writer.communicate()
    assert seen == 3 * 40


def test_a_long_journal_is_read_in_a_moment(journal):
    """Not a benchmark: a guard against a quadratic mistake."""
    line = journal.append(event("x"))
    assert line.offset > TAIL
    body = journal.path.read_bytes()
    lines, prev = [], "0" * 64
    for _ in range(20_000):
        text = b'{"prev":"' + prev.encode() + body[len(b'{"prev":"') + 64 : -TAIL]
        prev = hashlib.sha256(text).hexdigest()
        lines.append(text + b',"hash":"' + prev.encode() + b'"}\n')
    journal.path.write_bytes(b"".join(lines))
    began = time.monotonic()
    assert Journal(journal.path).verify().line == 20_000
    assert time.monotonic() - began < 5

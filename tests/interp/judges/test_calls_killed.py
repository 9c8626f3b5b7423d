"""Runs that are killed or interrupted at any moment, in processes of their own."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.llm_cache import LlmCache
from data.llm_record import RunRecord

ROOT = Path(__file__).parents[3]
AT_ONCE = 5
CHILD = """
import asyncio, json, random, sys
from pathlib import Path
from data.llm_cache import LlmCache
from data.llm_record import RunRecord
from interp.judges.calls import Caller
from interp.judges.client import CallFailed
from interp.judges.limits import Limits
from interp.judges.retry import Retry
from tests.interp.judges.fakes import FakeClient, ask, says

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
draw, ledger = random.Random(seed), open(folder / "ledger", "a", buffering=1)

class Service(FakeClient):
    async def complete(self, request):
        text = request.messages[-1].text
        await asyncio.sleep(draw.uniform(0, 0.004))
        if draw.random() < 0.1:
            raise CallFailed("503", again=True)
        ledger.write(f"paid {text}\\n")  # the service has answered and counts it
        await asyncio.sleep(draw.uniform(0, 0.004))
        return says(f"{text} by {seed}")

caller = Caller(Service(), LlmCache(folder / "llm_cache"), Limits(5),
                retry=Retry(9, first_s=0.005, seed=seed), record=RunRecord(folder / "calls.jsonl"))
told = lambda at, outcome: ledger.write(f"told {at} {outcome.reply.text}\\n")
print("begins", flush=True)
try:
    outcomes = caller.run_all([ask(f"{n}") for n in range(300)], told)
except KeyboardInterrupt:
    ledger.write("interrupted\\n")
    sys.exit(130)
print(json.dumps([o.reply.text for o in outcomes]))
"""


def started(folder: Path, seed: int) -> subprocess.Popen:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(seed)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout.readline() == "begins\n", child.stderr.read()
    return child


def ledger(folder: Path) -> tuple[list[str], dict[str, set[str]]]:
    """(requests that the service counted, reply texts that were told of each)."""
    paid, told = [], {}
    for line in (folder / "ledger").read_text().splitlines():
        match line.split(" ", 2):
            case ["paid", text]:
                paid.append(text)
            case ["told", at, reply]:
                told.setdefault(at, set()).add(reply)
    return paid, told


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(s, marks=pytest.mark.soak) for s in range(3, 23))]
)
def test_killed_at_any_moment_it_pays_only_what_was_under_way_twice(seed, tmp_path):
    """kill -9 once to three times, then to the end: what was told stays true, nothing is missing,
    and no kill costs more than was under way."""
    where = random.Random(seed)
    kills = where.randint(1, 3)
    for n in range(kills):
        child = started(tmp_path, 100 * seed + n)
        time.sleep(where.uniform(0, 0.35))
        child.kill()
        child.communicate()
    out, errors = started(tmp_path, 100 * seed + 99).communicate()
    replies = json.loads(out)
    assert [reply.split(" by ")[0] for reply in replies] == [f"{n}" for n in range(300)], errors
    paid, told = ledger(tmp_path)
    assert all(told[f"{n}"] == {reply} for n, reply in enumerate(replies)), "always the same"
    assert len(paid) - 300 <= AT_ONCE * kills
    assert LlmCache(tmp_path / "llm_cache").size().replies == 300
    counted = [e for e in RunRecord(tmp_path / "calls.jsonl").events() if e["event"] == "paid"]
    assert 300 <= len(counted) <= len(paid)


def test_an_interrupt_ends_it_quickly_and_keeps_what_was_answered(tmp_path):
    child = started(tmp_path, 7)
    while not (tmp_path / "ledger").exists() or "told" not in (tmp_path / "ledger").read_text():
        time.sleep(0.005)
    child.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = child.communicate()
    assert child.returncode == 130 and time.monotonic() - began < 5, errors
    assert errors == "", "no task is left behind"
    paid, told = ledger(tmp_path)
    kept = LlmCache(tmp_path / "llm_cache").size().replies
    assert len(told) == kept and 0 <= len(paid) - kept <= AT_ONCE
    events = RunRecord(tmp_path / "calls.jsonl").events()
    cut = [e for e in events if e["event"] == "failed" and e["reason"] == "interrupted"]
    assert len(cut) <= AT_ONCE and all(e["guessed"] for e in cut)
    replies = json.loads(started(tmp_path, 8).communicate()[0])
    assert all(told[at] == {replies[int(at)]} for at in told) and len(replies) == 300


def test_two_runs_at_once_on_one_cache_agree(tmp_path):
    children = [started(tmp_path, seed) for seed in (1, 2)]
    results = [json.loads(child.communicate()[0]) for child in children]
    assert results[0] == results[1]

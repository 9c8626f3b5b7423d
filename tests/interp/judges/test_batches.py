"""Requests as batches: submitted once, waited for, fetched once, whoever is killed in between."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from data.errors import WorkbenchError
from data.llm_cache import LlmCache
from data.llm_record import RunRecord
from interp.judges.batches import Batches, Polling
from interp.judges.budget import Budget, Prices
from interp.judges.calls import Caller
from interp.judges.client import CallFailed
from interp.judges.retry import Retry
from tests.interp.judges.fakes import FakeBatchClient, FakeClient, ask, in_fake_time, says

REQUESTS = [ask(f"{n}") for n in range(5)]


def batches(folder: Path, client, budget: Budget | None = None, **more) -> Batches:
    cache, record = LlmCache(folder / "llm_cache"), RunRecord(folder / "calls.jsonl")
    asking = Caller(client, cache, budget=budget, retry=Retry(3, seed=0), record=record)
    return Batches(asking, folder / "batches", **more)


def states(outcomes) -> list[str]:
    return [o.state for o in outcomes]


def test_submitted_waited_for_fetched_and_kept(tmp_path):
    """Looked at after 0, 5, 12.5 and 23.75 s: each wait half as long again."""
    client = FakeBatchClient(looks=4)
    seen: list[tuple[int, str]] = []
    asking = batches(tmp_path, client)
    outcomes = in_fake_time(
        asking.run([*REQUESTS, REQUESTS[0]], lambda at, o: seen.append((at, o.state)))
    )
    assert [o.reply.text for o in outcomes] == [f"re: {n}" for n in (0, 1, 2, 3, 4, 0)]
    assert client.looked == pytest.approx([0, 5, 12.5, 23.75])
    assert len(client.batches["batches/0"]) == 5 and client.asked == []
    assert len(seen) == 6 and list((tmp_path / "batches").iterdir()) == []
    again = in_fake_time(batches(tmp_path, client).run(REQUESTS))
    assert all(o.cached for o in again) and len(client.batches) == 1


def test_waits_grow_to_their_cap(tmp_path):
    client, polling = FakeBatchClient(looks=6), Polling(first_s=10, factor=3, cap_s=40)
    in_fake_time(batches(tmp_path, client, polling=polling).run(REQUESTS))
    assert client.looked == pytest.approx([0, 10, 40, 80, 120, 160])


def test_large_runs_are_several_batches(tmp_path):
    client = FakeBatchClient(looks=1)
    in_fake_time(batches(tmp_path, client, at_most=2).run(REQUESTS))
    assert [len(b) for b in client.batches.values()] == [2, 2, 1]
    client = FakeBatchClient(looks=1)
    in_fake_time(batches(tmp_path / "b", client, most_bytes=700).run(REQUESTS))
    sizes = [len(b) for b in client.batches.values()]
    assert sum(sizes) == 5 and max(sizes) < 5


def test_one_that_was_ended_goes_on_with_the_same_batch(tmp_path):
    """Ended while it waited; the next run submits only what is new."""
    client = FakeBatchClient(looks=999)

    async def ended() -> None:
        task = asyncio.ensure_future(batches(tmp_path, client).run(REQUESTS))
        await asyncio.sleep(60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    in_fake_time(ended())
    [kept] = (tmp_path / "batches").iterdir()
    assert json.loads(kept.read_text())["name"] == "batches/0"
    client.looks = 2
    outcomes = in_fake_time(batches(tmp_path, client).run([*REQUESTS[:3], ask("new")]))
    assert states(outcomes) == ["ok"] * 4
    assert [len(b) for b in client.batches.values()] == [5, 1]
    assert states(in_fake_time(batches(tmp_path, client).run(REQUESTS))) == ["ok"] * 5
    assert len(client.batches) == 2, "the other two came along and were kept"
    paid = [e for e in RunRecord(tmp_path / "calls.jsonl").events() if e["event"] == "paid"]
    assert len(paid) == 6


def test_a_batch_killed_between_keeping_and_forgetting_is_forgotten_later(tmp_path, monkeypatch):
    client = FakeBatchClient(looks=1)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        in_fake_time(batches(tmp_path, client).run(REQUESTS))
    assert len(list((tmp_path / "batches").glob("*.json"))) == 1
    outcomes = in_fake_time(batches(tmp_path, client).run(REQUESTS))
    assert all(o.cached for o in outcomes) and client.fetched == 1
    assert list((tmp_path / "batches").glob("*.json")) == []


@pytest.mark.parametrize("ends", ["failed", "cancelled"])
def test_a_batch_that_fails_leaves_failures_and_the_next_run_submits_anew(tmp_path, ends):
    client = FakeBatchClient(looks=2, ends=ends)
    outcomes = in_fake_time(batches(tmp_path, client).run(REQUESTS))
    assert {(o.state, o.reason) for o in outcomes} == {("failed", f"the batch {ends}")}
    client.looks, client.ends = 1, "done"
    assert states(in_fake_time(batches(tmp_path, client).run(REQUESTS))) == ["ok"] * 5


def test_single_failures_inside_a_batch(tmp_path):
    def answer(request, n):
        if n == 2:
            raise CallFailed("blocked", again=False)
        return says("x")

    client = FakeBatchClient(looks=1, answer=answer)
    outcomes = in_fake_time(batches(tmp_path, client).run(REQUESTS))
    assert states(outcomes) == ["ok", "failed", "ok", "ok", "ok"]
    assert outcomes[1].reason == "blocked" and LlmCache(tmp_path / "llm_cache").size().replies == 4


def test_fewer_results_than_requests(tmp_path):
    class Short(FakeBatchClient):
        async def fetch(self, name):
            return (await super().fetch(name))[:3]

    outcomes = in_fake_time(batches(tmp_path, Short(looks=1)).run(REQUESTS))
    assert states(outcomes) == ["ok"] * 3 + ["failed"] * 2
    assert outcomes[4].reason == "the batch has no result for it"


def test_one_still_open_is_not_run_and_stays(tmp_path):
    client = FakeBatchClient(looks=999)
    polling = Polling(longest_s=3600)
    outcomes = in_fake_time(batches(tmp_path, client, polling=polling).run(REQUESTS))
    assert {(o.state, o.reason) for o in outcomes} == {
        ("not_run", "its batch is still open: run again later to fetch it")
    }
    assert len(list((tmp_path / "batches").iterdir())) == 1
    client.looks = 1
    assert states(in_fake_time(batches(tmp_path, client).run(REQUESTS))) == ["ok"] * 5
    assert len(client.batches) == 1


@pytest.mark.parametrize(("reason", "stays"), [("answered 404", False), ("answered 401", True)])
def test_a_batch_that_cannot_be_looked_at(tmp_path, reason, stays):
    """One that the service no longer knows is given up; a wrong key loses nothing."""

    class Lost(FakeBatchClient):
        async def batch(self, name):
            raise CallFailed(reason, again=False)

    outcomes = in_fake_time(batches(tmp_path, Lost()).run(REQUESTS))
    assert set(states(outcomes)) == {"not_run" if stays else "failed"}
    assert bool(list((tmp_path / "batches").iterdir())) == stays


def test_a_passing_failure_of_a_look_is_passed_over(tmp_path):
    class Flaky(FakeBatchClient):
        async def batch(self, name):
            state = await super().batch(name)
            if self.looks % 2:
                raise CallFailed("503", again=True)
            return state

    assert states(in_fake_time(batches(tmp_path, Flaky(looks=6)).run(REQUESTS))) == ["ok"] * 5


def test_a_batch_that_is_refused(tmp_path):
    class Refusing(FakeBatchClient):
        async def submit(self, requests, title):
            self.began.append(0)
            raise CallFailed(self.reason, again=True)

    client = Refusing()
    client.reason = "answered 503"
    outcomes = in_fake_time(batches(tmp_path, client).run(REQUESTS))
    assert {(o.state, o.reason) for o in outcomes} == {("failed", "answered 503")}
    assert len(client.began) == 3
    client.reason, client.began = "fake did not answer within 120 s", []
    in_fake_time(batches(tmp_path, client).run(REQUESTS))
    assert len(client.began) == 1, "it may be there: a second one would be paid as well"


def test_only_what_fits_the_budget_is_submitted(tmp_path):
    client = FakeBatchClient(looks=1)
    budget = Budget(calls=3, prices=Prices(1.0, 4.0, batch=0.5))
    outcomes = in_fake_time(batches(tmp_path, client, budget).run(REQUESTS))
    assert states(outcomes) == ["ok"] * 3 + ["not_run"] * 2
    assert len(client.batches["batches/0"]) == 3
    assert budget.spent.money == pytest.approx(3 * (10 + 20) / 2e6), "at half the price"


def test_a_client_without_batches_is_refused(tmp_path):
    with pytest.raises(WorkbenchError, match="fake:m takes no batches"):
        batches(tmp_path, FakeClient())

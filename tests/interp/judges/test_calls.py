"""Requests through all that stands above a client: order, cache, budget, failures."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from data.errors import WorkbenchError, WorkspaceError
from data.llm_cache import LlmCache
from data.llm_record import RunRecord
from interp.judges import one_loop
from interp.judges.budget import Budget, Prices
from interp.judges.calls import Caller, Outcome, Progress
from interp.judges.client import CallFailed
from interp.judges.limits import Limits
from interp.judges.retry import Retry
from tests.interp.judges.fakes import FakeClient, ask, in_fake_time, now, says

QUICK = Retry(attempts=3, first_s=1.0, seed=0)


def caller(folder: Path, client: FakeClient, **more) -> Caller:
    more.setdefault("limits", Limits(4))
    more.setdefault("retry", QUICK)
    return Caller(client, LlmCache(folder / "llm_cache"), **more)


def ran(asking: Caller, requests) -> list[Outcome]:
    return in_fake_time(asking.run(requests))


def texts(outcomes: list[Outcome]) -> list[str]:
    return [o.reply.text if o.reply else f"{o.state}: {o.reason}" for o in outcomes]


# ---------------------------------------------------------------- the plain way


def test_one_reply_a_request_in_their_order(tmp_path):
    """The later ones are answered first."""
    client = FakeClient(takes_s=lambda n: 10 / n)
    outcomes = ran(caller(tmp_path, client), [ask(f"{n}") for n in range(9)])
    assert texts(outcomes) == [f"re: {n}" for n in range(9)]
    assert all(o.state == "ok" and not o.cached and o.attempts == 1 for o in outcomes)
    assert client.most_at_once == 4


def test_a_second_run_costs_nothing(tmp_path):
    requests = [ask(f"{n}") for n in range(9)]
    first = ran(caller(tmp_path, FakeClient()), requests)
    again, client = None, FakeClient()
    again = ran(caller(tmp_path, client), requests)
    assert client.asked == [] and texts(again) == texts(first)
    assert all(o.cached and o.attempts == 0 for o in again)
    assert [o.key for o in again] == [o.key for o in first]
    assert again[0].reply == first[0].reply, "whole, usage and all"


def test_another_draw_is_another_reply(tmp_path):
    client = FakeClient(lambda request, n: says(f"{n}"))
    outcomes = ran(caller(tmp_path, client), [ask("a", draw=d) for d in (0, 1, 0, 2)])
    assert texts(outcomes) == ["1", "2", "1", "3"]


def test_the_same_request_twice_is_asked_once(tmp_path):
    client = FakeClient()
    outcomes = ran(caller(tmp_path, client), [ask("a"), ask("b"), ask("a"), ask("a")])
    assert sorted(client.asked) == ["a", "b"]
    assert texts(outcomes) == ["re: a", "re: b", "re: a", "re: a"]
    assert [o.cached for o in outcomes] == [False, False, True, True]


def test_nothing_to_ask(tmp_path):
    assert ran(caller(tmp_path, FakeClient()), []) == []


def test_everybody_is_told(tmp_path):
    seen: list[tuple[int, str]] = []
    progress: list[Progress] = []

    def answer(request, n):
        if request.messages[-1].text == "bad":
            raise CallFailed("refused", again=False)
        return says("x", 100, 50)

    budget = Budget(calls=4, prices=Prices(1.0, 4.0))
    asking = caller(tmp_path, FakeClient(answer), limits=Limits(1), budget=budget,
                    on_progress=progress.append)  # fmt: skip
    ran(caller(tmp_path, FakeClient(answer)), [ask("kept")])
    requests = [ask("kept"), ask("bad"), ask("a"), ask("a"), ask("b"), ask("c"), ask("d")]
    in_fake_time(asking.run(requests, lambda at, outcome: seen.append((at, outcome.state))))
    assert seen == [(0, "ok"), (1, "failed"), (2, "ok"), (3, "ok"), (4, "ok"), (5, "ok"),
                    (6, "not_run")]  # fmt: skip
    last = progress[-1]
    assert [p.done for p in progress] == [1, 2, 3, 4, 5, 6, 7] and last.total == 7
    assert last.cached == 2 and last.failed == {"refused": 1}
    assert last.not_run == {"the budget of calls is used up": 1}
    assert last.spent.calls == 4 and last.spent.money == pytest.approx(3 * 300 / 1e6)
    assert str(last) == (
        "7 of 7; 2 from the cache; 1 failed (1 refused); "
        "1 not run (1 the budget of calls is used up); 4 calls, 450 tokens; 0.00 spent"
    )


# ---------------------------------------------------------------- failures


def test_a_passing_failure_is_tried_again(tmp_path):
    def answer(request, n):
        if n < 3:
            raise CallFailed("service answered 503", again=True)
        return says("at last")

    record = RunRecord(tmp_path / "calls.jsonl")
    asking = caller(tmp_path, FakeClient(answer), record=record)
    [outcome] = ran(asking, [ask("a")])
    assert outcome.state == "ok" and outcome.attempts == 3
    assert [(e["event"], e.get("attempt")) for e in record.events()] == [
        ("failed", 1), ("failed", 2), ("paid", None)
    ]  # fmt: skip
    assert asking.budget.spent.calls == 3


def test_failures_are_outcomes_and_are_never_kept(tmp_path):
    def answer(request, n):
        raise CallFailed("wrong key", again=False)

    [outcome] = ran(caller(tmp_path, FakeClient(answer)), [ask("a")])
    assert (outcome.state, outcome.reason, outcome.reply) == ("failed", "wrong key", None)
    assert texts(ran(caller(tmp_path, FakeClient()), [ask("a")])) == ["re: a"]


def test_after_many_failures_in_a_row_the_rest_is_not_sent(tmp_path):
    def answer(request, n):
        raise CallFailed("wrong key", again=False)

    client = FakeClient(answer)
    asking = caller(tmp_path, client, stop_after=10)
    outcomes = ran(asking, [ask(f"{n}") for n in range(100)])
    failed = [o for o in outcomes if o.state == "failed"]
    assert 10 <= len(failed) == len(client.asked) <= 13, "those under way as well"
    assert outcomes[-1].state == "not_run"
    assert outcomes[-1].reason == "stopped after 10 failures in a row"
    client.asked.clear()
    ran(asking, [ask(f"{n}") for n in range(100)])
    assert len(client.asked) <= 4, "another run finds out at once"
    client.answer = lambda request, n: says("x")
    assert {o.state for o in ran(asking, [ask(f"{n}") for n in range(100)])} == {"ok"}


def test_an_abnormal_finish_is_a_reply(tmp_path):
    """Whether it is of any use is for those to say who asked."""
    import dataclasses

    blocked = dataclasses.replace(says(""), finish_reason="blocked", detail="SAFETY")
    for _ in range(2):
        [outcome] = ran(caller(tmp_path, FakeClient(lambda r, n: blocked)), [ask("a")])
        assert outcome.state == "ok" and outcome.reply.finish_reason == "blocked"
    assert outcome.cached


@pytest.mark.parametrize("retry_after", [2.0, None])
def test_too_many_requests_slow_everybody_down(tmp_path, retry_after):
    """The service bears 2 calls in 1.2 s and counts those it refuses: a hundred take 60 s at best.
    Without a shared slow-down they took 200 s and 308 calls or more."""

    def answer(request, n):
        if len([t for t in client.began if t > now() - 1.2]) > 2:
            raise CallFailed("service answered 429", again=True, retry_after=retry_after)
        return says("x")

    client = FakeClient(answer)
    asking = caller(tmp_path, client, limits=Limits(8), retry=Retry(attempts=30, seed=1))
    outcomes = ran(asking, [ask(f"{n}") for n in range(100)])
    assert {o.state for o in outcomes} == {"ok"}
    assert len(client.began) < 150 and client.began[-1] < 120


def test_an_error_of_the_program_ends_the_run_and_comes_up_as_it_is(tmp_path):
    def answer(request, n):
        if n == 3:
            raise ZeroDivisionError("a bug")
        return says("x")

    client = FakeClient(answer)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        ran(caller(tmp_path, client), [ask(f"{n}") for n in range(50)])
    assert client.at_once == 0 and len(client.asked) <= 8
    assert LlmCache(tmp_path / "llm_cache").size().replies >= 2


# ---------------------------------------------------------------- budget


def test_what_does_not_fit_is_not_run(tmp_path):
    client = FakeClient()
    outcomes = ran(
        caller(tmp_path, client, budget=Budget(calls=3)), [ask(f"{n}") for n in range(5)]
    )
    assert [o.state for o in outcomes] == ["ok"] * 3 + ["not_run"] * 2
    assert outcomes[4].reason == "the budget of calls is used up" and len(client.asked) == 3


def test_a_retry_that_does_not_fit_leaves_the_failure(tmp_path):
    def answer(request, n):
        raise CallFailed("busy", again=True)

    asking = caller(tmp_path, FakeClient(answer), budget=Budget(calls=2))
    [outcome] = ran(asking, [ask("a")])
    assert (outcome.state, outcome.reason, outcome.attempts) == ("failed", "busy", 2)


def test_a_call_that_was_cut_off_counts_as_the_worst(tmp_path):
    record = RunRecord(tmp_path / "calls.jsonl")
    asking = caller(tmp_path, FakeClient(takes_s=99), retry=Retry(1, timeout_s=5), record=record)
    [outcome] = ran(asking, [ask("a", 100)])
    assert (outcome.state, outcome.reason) == ("failed", "no answer within 5 s")
    assert asking.budget.spent.guessed == 1 and asking.budget.spent.reply == 100
    restored = caller(tmp_path, FakeClient(), record=record)
    assert restored.budget.spent == asking.budget.spent, "and it counts in the next run"


@settings(max_examples=25, deadline=None)
@given(seed=some.integers(0, 10**9), at_once=some.integers(1, 12), cap=some.integers(0, 9000))
def test_every_request_has_one_outcome_and_no_cap_is_passed(tmp_path_factory, seed, at_once, cap):
    """Random usage, failures of every kind, slow replies, twins; and the run may be repeated."""
    draw = random.Random(seed)

    def answer(request, n):
        what = draw.random()
        if what < 0.15:
            raise CallFailed("429", again=True, retry_after=draw.choice([None, 3.0, 999.0]))
        if what < 0.25:
            raise CallFailed("bad", again=False)
        used = draw.randint(0, 60)
        thoughts = draw.randint(0, 100 - used)
        unknown = draw.random() < 0.1
        return says("x", None if unknown else draw.randint(1, 80), used, thoughts=thoughts)

    folder = tmp_path_factory.mktemp("run")
    requests = [ask(f"{draw.randrange(40)}", 100) for _ in range(60)]
    record = RunRecord(folder / "calls.jsonl")
    for _ in range(2):
        client = FakeClient(answer, takes_s=lambda n: draw.choice([0.1, 1, 30]))
        budget = Budget(tokens=cap)
        asking = caller(folder, client, limits=Limits(at_once, 300), budget=budget,
                        retry=Retry(3, timeout_s=20, seed=seed), record=record)  # fmt: skip
        outcomes = ran(asking, requests)
        assert client.most_at_once <= at_once and budget.spent.tokens <= cap
        by_request: dict[str, set] = {}
        for request, outcome in zip(requests, outcomes, strict=True):
            assert outcome.state in ("ok", "failed", "not_run")
            assert (outcome.reply is None) == (outcome.state != "ok") == bool(outcome.reason)
            by_request.setdefault(request.messages[0].text, set()).add(outcome.state)
        assert all(len(states) == 1 for states in by_request.values())
    spent = Budget()
    spent.restore(record)
    assert spent.spent.tokens == budget.spent.tokens <= cap, "over both runs"


# ---------------------------------------------------------------- from plain code


def test_it_can_be_asked_from_any_thread(tmp_path):
    """Threads and runs one after the other share one client and its connections."""
    loops: set[int] = set()

    class Client(FakeClient):
        async def complete(self, request):
            loops.add(id(asyncio.get_running_loop()))
            return await super().complete(request)

    client = Client(takes_s=0.001)
    got: dict[int, list[str]] = {}
    with caller(tmp_path, client) as asking:

        def work(thread: int) -> None:
            got[thread] = texts(asking.run_all([ask(f"{thread} {n}") for n in range(5)]))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == {t: [f"re: {t} {n}" for n in range(5)] for t in range(4)}
    assert len(loops) == 1 and client.closed


def test_it_can_be_asked_where_a_loop_runs_already(tmp_path):
    """As in a notebook."""

    async def cell() -> list[str]:
        return texts(caller(tmp_path, FakeClient(takes_s=0.001)).run_all([ask("a")]))

    assert asyncio.run(cell()) == ["re: a"]


def test_its_errors_come_up(tmp_path):
    async def broken() -> None:
        raise WorkspaceError("no room")

    with pytest.raises(WorkspaceError, match="no room"):
        one_loop.run(broken())


def test_nothing_is_paid_where_nothing_can_be_kept(tmp_path):
    (tmp_path / "llm_cache").write_text("a file")
    client = FakeClient()
    with pytest.raises(WorkbenchError, match="llm_cache.* cannot be"):
        ran(caller(tmp_path, client), [ask("a")])
    assert client.asked == []

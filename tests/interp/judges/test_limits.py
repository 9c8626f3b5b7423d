"""Places in line: calls at once, a minute's worth, and slowing down, by a fake clock."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from data.errors import WorkbenchError
from interp.judges.limits import LEAST, MINUTE, Bucket, Limits, Line
from tests.interp.judges.fakes import all_of, in_fake_time, now


def begun(limits: Limits, calls: list[tuple[float, float]]) -> list[float]:
    """When calls of (tokens, seconds) begin that all come at 0, in their order."""

    async def call(tokens: float, seconds: float) -> float:
        async with limits.place(tokens):
            began = now()
            await asyncio.sleep(seconds)
            return began

    return in_fake_time(all_of(*(call(*one) for one in calls)))


# ---------------------------------------------------------------- by hand


def test_so_many_at_once_first_come_first_served():
    """Two places; calls of 3, 1, 1, 1 s: the third goes at 1, the fourth at 2."""
    assert begun(Limits(2), [(0, 3), (0, 1), (0, 1), (0, 1)]) == [0, 0, 1, 2]


def test_thirty_a_minute_are_one_every_two_seconds():
    assert begun(Limits(9, requests_a_minute=30), [(0, 9)] * 4) == pytest.approx([0, 2, 4, 6])


def test_a_second_s_worth_goes_at_once():
    """240 a minute: four at once, then one each quarter of a second."""
    times = begun(Limits(9, requests_a_minute=240), [(0, 9)] * 7)
    assert times == pytest.approx([0, 0, 0, 0, 0.25, 0.5, 0.75], abs=1e-3)


def test_tokens_leave_a_debt():
    """600 a minute are 10 a second. 30 go from a full bucket of 10 and leave a debt of 20; the
    next 5 wait until 5 are there: 2.5 s."""
    times = begun(Limits(9, tokens_a_minute=600), [(30, 9), (5, 9), (5, 9)])
    assert times == pytest.approx([0, 2.5, 3.0], abs=1e-3)


def test_more_than_a_minute_s_worth_goes_alone():
    times = begun(Limits(9, tokens_a_minute=600), [(900, 1), (1, 1)])
    assert times[0] == 0 and times[1] >= MINUTE


def test_real_usage_takes_the_place_of_the_estimate():
    """The first was thought to take 110 and took 10, so that at .5 s there are 5 of 10 again: the
    next waits half a second, not ten."""

    async def calls() -> list[float]:
        limits, began = Limits(1, tokens_a_minute=600), []
        for used in (10, None):
            async with limits.place(110) as place:
                began.append(now())
                await asyncio.sleep(0.5)
                place.correct(used)
        return began

    assert in_fake_time(calls()) == pytest.approx([0, 1], abs=1e-3)


def test_usage_above_the_estimate_is_made_up_for():
    """Thought to take 10, took 60: the debt of 50 is paid by 5 s at 10 a second."""

    async def calls() -> list[float]:
        limits, began = Limits(1, tokens_a_minute=600), []
        for _ in range(2):
            async with limits.place(10) as place:
                began.append(now())
                place.correct(60)
        return began

    assert in_fake_time(calls()) == pytest.approx([0, 6.0], abs=1e-3)


def test_one_who_gives_up_holds_nobody_up():
    async def calls() -> list[float]:
        limits = Limits(1)

        async def call(seconds: float) -> float:
            async with limits.place():
                began = now()
                await asyncio.sleep(seconds)
                return began

        tasks = [asyncio.ensure_future(call(s)) for s in (3, 9, 1)]
        await asyncio.sleep(1)
        tasks[1].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[1], asyncio.CancelledError)
        return [done[0], done[2]]

    assert in_fake_time(calls()) == [0, 3]


def test_one_that_fails_gives_its_place_back():
    async def calls() -> None:
        limits = Limits(1)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                async with limits.place():
                    raise RuntimeError
        assert limits.under_way == 0

    in_fake_time(calls())


def test_too_many_halves_what_goes_at_once_and_it_grows_again():
    async def calls() -> None:
        limits = Limits(8)
        async with limits.place() as one, limits.place() as two:
            await asyncio.sleep(1)
            limits.slow_down(now(), one, None)
            limits.slow_down(now(), two, None)
            assert limits.allowed == 4, "once for both: they were under way together"
        for _ in range(4):
            limits.succeeded()
        assert 4.8 < limits.allowed < 5, "about one more after a round"
        for _ in range(100):
            limits.succeeded()
        assert limits.allowed == 8
        for _ in range(12):
            async with limits.place() as place:
                await asyncio.sleep(1)
                limits.slow_down(now(), place, None)
        assert limits.allowed == LEAST, "never none"

    in_fake_time(calls())


def test_less_than_one_at_once_is_one_and_a_pause():
    """A quarter of a call at once: calls of 1 s begin every 4 s."""

    async def calls() -> list[float]:
        limits, began = Limits(8), []
        limits.allowed = 0.25

        async def call() -> None:
            async with limits.place():
                began.append(now())
                await asyncio.sleep(1)

        await all_of(call(), call(), call())
        return began

    assert in_fake_time(calls()) == [0, 4, 8]


def test_nobody_begins_before_the_service_wants():
    async def calls() -> list[float]:
        limits = Limits(8)

        async def call() -> float:
            async with limits.place():
                return now()

        async with limits.place() as place:
            limits.slow_down(now(), place, 30.0)
        return await all_of(call(), call())

    assert in_fake_time(calls()) == [30, 30]


def test_only_the_first_in_line_is_asked():
    async def stand() -> list[str]:
        line, log = Line(), []

        def take(name: str, at: float) -> float:
            log.append(name)
            return at - now()

        await all_of(
            line.stand(lambda: take("a", 5)),
            line.stand(lambda: take("b", 2)),
            line.stand(lambda: take("c", 7)),
        )
        return log

    assert in_fake_time(stand()) == ["a", "a", "b", "c", "c"]


@pytest.mark.parametrize("wrong", [{"concurrent": 0}, {"requests_a_minute": 0.5},
                                   {"tokens_a_minute": float("nan")}])  # fmt: skip
def test_limits_below_one_are_refused(wrong):
    with pytest.raises(WorkbenchError, match=f"{next(iter(wrong))} is .*: give a number"):
        Limits(**wrong)


def test_the_least_time_a_run_takes():
    limits = Limits(1, requests_a_minute=60, tokens_a_minute=1000)
    assert limits.minutes(120, 500) == 2 and limits.minutes(6, 5000) == 5
    assert Limits(1).minutes(9, 9) == 0


# ---------------------------------------------------------------- properties


@settings(max_examples=40, deadline=None)
@given(
    seed=some.integers(0, 10**9),
    requests=some.sampled_from([3, 20, 61.5, 900, 9600]),
    tokens=some.sampled_from([None, 100, 2500, 100_000]),
    concurrent=some.integers(1, 40),
)
def test_no_minute_ever_holds_more_than_a_minute_s_worth(seed, requests, tokens, concurrent):
    """Any window of 60 s, begun at any call; calls come in bursts and take as long as they like."""
    draw, log = random.Random(seed), []
    limits = Limits(concurrent, requests, tokens)

    async def worker() -> None:
        for _ in range(12):
            await asyncio.sleep(draw.choice([0, 0, draw.expovariate(1 / 20)]))
            need = draw.randint(0, int((tokens or 100) * draw.choice([0.01, 0.2, 1])))
            async with limits.place(need) as place:
                entry = [now(), need]
                log.append(entry)
                assert limits.under_way <= concurrent
                await asyncio.sleep(draw.uniform(0, 3))
                if draw.random() < 0.5:  # estimates are too large, never too small
                    entry[1] = draw.randint(0, need)
                    place.correct(entry[1])

    async def all_workers() -> None:
        await all_of(*(worker() for _ in range(10)))

    in_fake_time(all_workers())
    assert len(log) == 120
    for start, _ in log:
        inside = [amount for at, amount in log if start <= at < start + MINUTE]
        assert len(inside) <= requests
        if tokens is not None:
            assert sum(inside) <= tokens + 1e-6


def test_in_the_long_run_the_rate_is_reached():
    """Ten minutes' worth of calls takes ten minutes, not longer."""
    limits = Limits(10, requests_a_minute=120, tokens_a_minute=12_000)
    times = begun(limits, [(100, 0.5)] * 1200)
    assert 590 < times[-1] <= 603


@settings(max_examples=60, deadline=None)
@given(some.lists(some.tuples(some.floats(0, 30), some.integers(1, 80)), max_size=40))
def test_a_bucket_says_when(steps):
    """After the wait it named, a bucket gives what was asked, unless it says a little more."""
    bucket, time = Bucket(100), 0.0
    for pause, amount in steps:
        time += pause
        for _ in range(4):
            wait = bucket.wait_s(time, amount)
            if wait <= 0:
                break
            time += wait
        assert bucket.wait_s(time, amount) <= 1e-6
        bucket.take(time, amount)

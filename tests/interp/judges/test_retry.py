"""When a call is tried again, by a fake clock."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from data.errors import WorkbenchError
from interp.judges.client import CallFailed
from interp.judges.retry import NoAnswer, Retry
from tests.interp.judges.fakes import in_fake_time, now


class Trouble:
    """Fails as listed, then answers; notes when it was asked."""

    def __init__(self, *failures: CallFailed) -> None:
        self.failures, self.times = list(failures), []

    async def __call__(self) -> str:
        self.times.append(now())
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


def busy(retry_after: float | None = None) -> CallFailed:
    return CallFailed("busy", again=True, retry_after=retry_after)


class Largest(Retry):
    """Always draws the longest wait."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._random.uniform = lambda low, high: high


def tried(retry: Retry, trouble: Trouble) -> list[float]:
    assert in_fake_time(retry.run(trouble)) == "answer"
    return trouble.times


def test_waits_double_up_to_the_cap():
    """first 1, cap 5: 1, 2, 4, 5, 5 s at most."""
    retry = Largest(attempts=6, first_s=1, cap_s=5)
    assert tried(retry, Trouble(*[busy()] * 5)) == [0, 1, 3, 7, 12, 17]


def test_a_first_answer_costs_no_wait():
    assert tried(Retry(), Trouble()) == [0]


def test_what_the_service_asks_to_wait_is_waited_even_beyond_the_cap():
    retry = Retry(cap_s=5, longest_s=100, seed=0)
    assert tried(retry, Trouble(busy(90.0), busy(0.0)))[1] == 90


def test_a_longer_wait_of_our_own_stays():
    assert tried(Largest(first_s=4), Trouble(busy(1.0))) == [0, 4]


def test_more_patience_than_there_is_is_not_asked():
    trouble = Trouble(busy(101.0))
    with pytest.raises(CallFailed) as failed:
        in_fake_time(Retry(longest_s=100).run(trouble))
    assert failed.value.reason == "busy; the service asks to wait longer than 100 s"
    assert not failed.value.again and trouble.times == [0]


def test_only_so_many_attempts():
    trouble = Trouble(*[busy()] * 9)
    with pytest.raises(CallFailed, match="^busy$"):
        in_fake_time(Retry(attempts=3).run(trouble))
    assert len(trouble.times) == 3


def test_what_trying_cannot_help_is_tried_once():
    trouble = Trouble(CallFailed("wrong key", again=False, retry_after=1.0))
    with pytest.raises(CallFailed, match="^wrong key$"):
        in_fake_time(Retry().run(trouble))
    assert len(trouble.times) == 1


def test_no_attempt_begins_after_the_total_time():
    """Waits of 4, 8, 16, ... s within 20 s: attempts at 0, 4 and 12; the next would be at 28."""
    trouble = Trouble(*[busy()] * 9)
    with pytest.raises(CallFailed):
        in_fake_time(Largest(attempts=9, first_s=4, total_s=20).run(trouble))
    assert trouble.times == [0, 4, 12]


def test_other_errors_are_not_its_business():
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_fake_time(Retry().run(broken))


def test_a_call_is_cut_off_in_time():
    async def slow() -> float:
        with pytest.raises(NoAnswer, match="no answer within 7 s") as failed:
            await Retry(timeout_s=7).in_time(asyncio.sleep(8))
        assert failed.value.again
        return now()

    assert in_fake_time(slow()) == 7
    assert in_fake_time(Retry(timeout_s=7).in_time(asyncio.sleep(6, "answer"))) == "answer"
    forever = Retry(timeout_s=float("inf"))
    assert in_fake_time(forever.in_time(asyncio.sleep(1e6, "answer"))) == "answer"


@settings(max_examples=50, deadline=None)
@given(
    seed=some.integers(0, 10**6),
    first=some.floats(0, 10),
    cap=some.floats(0, 30),
    after=some.lists(some.none() | some.floats(-5, 60), min_size=1, max_size=8),
)
def test_every_wait_lies_where_it_should(seed, first, cap, after):
    trouble = Trouble(*map(busy, after))
    retry = Retry(9, first, cap, longest_s=60, total_s=1e9, seed=seed)
    times = tried(retry, trouble)
    for number, (asked, begin, end) in enumerate(zip(after, times, times[1:], strict=False)):
        most = max(min(cap, first * 2**number), asked or 0)
        assert max(asked or 0, 0) - 1e-6 <= end - begin <= most + 1e-3


def test_a_seed_repeats_the_waits_and_others_differ():
    waits = [tried(Retry(seed=seed), Trouble(*[busy()] * 4)) for seed in (1, 1, 2)]
    assert waits[0] == waits[1] != waits[2]


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"total_s": -1.0}, {"cap_s": float("nan")}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(WorkbenchError, match=next(iter(wrong))):
        Retry(**wrong)

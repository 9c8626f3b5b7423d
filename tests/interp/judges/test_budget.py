"""What may be spent: by hand, and never more under any usage and any number at once."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from data.errors import WorkbenchError
from data.llm_cache import LlmCache, key_of
from data.llm_record import RunRecord
from interp.judges.budget import AROUND, TEMPLATE, Budget, OverBudget, Prices, Spent, Worst
from interp.judges.client import Usage
from interp.judges.forecast import Estimate, Guess, estimate
from interp.judges.limits import Limits
from interp.judges.stored import reply_dict, request_dict
from tests.interp.judges.fakes import all_of, ask, in_fake_time, now, says

PRICES = Prices(prompt=1.0, reply=4.0, thoughts=2.0, cached=0.25, unit="EUR")
FIXED = TEMPLATE + AROUND  # tokens of a worst case that are not text


# ---------------------------------------------------------------- by hand


def test_money_of_a_call():
    """600 prompts at 1, 400 cached at .25, 100 replies at 4, 50 thoughts at 2, per million."""
    usage = Usage(prompt=1000, reply=100, thoughts=50, cached=400)
    assert PRICES.of(usage) == pytest.approx((600 + 100 + 400 + 100) / 1e6)
    assert Prices(1.0, 4.0).of(usage) == pytest.approx((1000 + 400 + 200) / 1e6)
    assert Prices(1.0, 4.0).of(Usage()) == 0
    assert PRICES.at_most(1000, 150) == pytest.approx((1000 + 600) / 1e6)
    assert Prices(1.0, 4.0, thoughts=9.0).at_most(0, 100) == pytest.approx(900 / 1e6)


def test_the_worst_case_of_a_request():
    """No more tokens than bytes, and what a service puts around them."""
    assert Worst.of(ask("héé", 70)) == Worst(FIXED + 5, 70)
    assert Worst.of(ask("", None, schema={"a": 1})) == Worst(FIXED + len('{"a": 1}'), None)
    assert Worst.of(ask("\ud800", 1)).prompt == FIXED + 3


def test_calls_are_counted_failed_ones_too():
    async def calls() -> None:
        budget = Budget(calls=2)
        budget.refused(await budget.reserve(ask("a")))
        budget.settle(await budget.reserve(ask("b")), Usage(1, 1))
        with pytest.raises(OverBudget, match="the budget of calls is used up"):
            await budget.reserve(ask("c"))
        assert budget.spent == Spent(calls=2, prompt=1, reply=1)

    in_fake_time(calls())


def test_the_difference_comes_back():
    """Worst case 180 of 200; 20 used, so another fits, and then none."""

    async def calls() -> None:
        budget = Budget(tokens=FIXED + 120)
        budget.settle(await budget.reserve(ask("", 100)), Usage(10, 10))
        budget.settle(await budget.reserve(ask("", 100)), Usage(10, 10))
        with pytest.raises(OverBudget, match="tokens"):
            await budget.reserve(ask("", 100))
        assert budget.spent.tokens == 40

    in_fake_time(calls())


def test_what_could_fit_waits_for_those_under_way():
    async def calls() -> None:
        budget = Budget(tokens=FIXED + 150)

        async def call(used: int) -> float:
            held = await budget.reserve(ask("", 100))
            began = now()
            await asyncio.sleep(3)
            budget.settle(held, Usage(used, 0))
            return began

        done = await asyncio.gather(call(30), call(90), call(0), return_exceptions=True)
        assert done[:2] == [0, 3]
        assert isinstance(done[2], OverBudget), "120 are spent: it cannot fit any more"
        assert budget.spent.tokens == 120

    in_fake_time(calls())


def test_what_was_never_sent_costs_nothing():
    async def calls() -> None:
        budget = Budget(calls=1)
        budget.release(await budget.reserve(ask("a")))
        assert budget.spent.calls == 0
        await budget.reserve(ask("b"))

    in_fake_time(calls())


def test_unknown_usage_counts_as_the_worst():
    async def calls() -> None:
        budget = Budget(prices=PRICES)
        counted = budget.settle(await budget.reserve(ask("abc", 100)), Usage(thoughts=30))
        assert counted == Usage(FIXED + 3, 70, 30)
        assert budget.spent.guessed == 1 and budget.spent.tokens == FIXED + 103

    in_fake_time(calls())


def test_without_max_tokens_no_cap_can_be_held():
    async def calls() -> None:
        for cap in ({"tokens": 10**9}, {"money": 10**9, "prices": PRICES}):
            with pytest.raises(OverBudget, match="no max_tokens"):
                await Budget(**cap).reserve(ask("a", None))
        await Budget(calls=9).reserve(ask("a", None))

    in_fake_time(calls())


def test_a_batch_costs_its_share():
    budget = Budget(money=1.0, prices=Prices(1.0, 4.0, batch=0.5))
    budget.settle(budget.reserve_now(ask("a", 100), factor=0.5), Usage(1000, 100))
    assert budget.spent.money == pytest.approx(700 / 1e6)


def test_together_those_under_way_count_in_full():
    budget = Budget(tokens=2 * FIXED + 250)
    for _ in range(2):
        budget.reserve_now(ask("", 100))
    with pytest.raises(OverBudget, match="tokens"):
        budget.reserve_now(ask("", 100))
    budget.reserve_now(ask("", 100), sent=True)


def test_what_an_earlier_run_spent_counts(tmp_path):
    record, budget = RunRecord(tmp_path / "calls.jsonl"), Budget(calls=3, prices=PRICES)
    record.paid("k", {"prompt": 5, "reply": 2}, factor=0.5)
    record.failed("k", 1, "busy")
    for _ in range(2):  # several callers may share a budget and a record
        budget.restore(record)
    assert budget.spent.calls == 2 and budget.spent.tokens == 7
    assert budget.spent.money == pytest.approx((5 + 8) / 2e6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Budget(calls=-1), "cap on calls is -1"),
        (lambda: Budget(money=1.0), "needs prices"),
        (lambda: Budget(tokens=float("nan")), "cap on tokens"),
        (lambda: Prices(1.0, -2.0), "price reply is -2.0"),
        (lambda: Prices(float("inf"), 1.0), "price prompt"),
    ],
)
def test_nonsense_is_refused(make, says):
    with pytest.raises(WorkbenchError, match=says):
        make()


# ---------------------------------------------------------------- the cap is never passed


@settings(max_examples=60, deadline=None)
@given(
    seed=some.integers(0, 10**9),
    workers=some.integers(1, 20),
    calls=some.none() | some.integers(0, 40),
    tokens=some.none() | some.integers(0, 20_000),
    money=some.none() | some.floats(0, 0.05),
)
def test_no_cap_is_ever_passed(seed, workers, calls, tokens, money):
    """Random requests, usage up to the worst case, failures, cut calls, many at once."""
    draw = random.Random(seed)
    budget = Budget(calls, tokens, money, PRICES)
    waiting = [ask("x" * draw.randint(0, 500), draw.randint(1, 900)) for _ in range(80)]
    refused: list[str] = []

    def check() -> None:
        spent = budget.spent
        assert calls is None or spent.calls <= calls
        assert tokens is None or spent.tokens <= tokens
        assert money is None or spent.money <= money * (1 + 1e-9)

    async def worker() -> None:
        while waiting:
            request = waiting.pop()
            worst = Worst.of(request)
            try:
                held = await budget.reserve(request)
            except OverBudget as over:
                refused.append(str(over))
                continue
            await asyncio.sleep(draw.uniform(0, 2))
            what = draw.random()
            if what < 0.6:
                out = draw.randint(0, worst.reply)
                thoughts = draw.randint(0, out)
                prompt = draw.randint(0, worst.prompt)
                usage = Usage(prompt, out - thoughts, thoughts, draw.randint(0, prompt))
                budget.settle(held, usage)
            elif what < 0.75:
                budget.settle(held, Usage())
            elif what < 0.9:
                budget.refused(held)
            else:
                budget.release(held)
            check()

    async def all_workers() -> None:
        await all_of(*(worker() for _ in range(workers)))

    in_fake_time(all_workers())
    check()
    if calls is None and tokens is None and money is None:
        assert not refused


# ---------------------------------------------------------------- told before


def test_an_estimate_by_hand(tmp_path):
    """Five requests: one kept, one asked twice, three calls."""
    cache, prices = LlmCache(tmp_path), Prices(1.0, 4.0, unit="EUR")
    requests = [ask("a" * 120), ask("b" * 120), ask("b" * 120), ask("c" * 120), ask("d" * 120)]
    first = estimate(requests, "e", cache, prices)
    assert (first.requests, first.cached, first.repeated, first.calls) == (5, 0, 1, 4)
    assert first.reply is None and first.money is None, "nothing is known of replies yet"
    assert first.reply_most == 400 and first.prompt_most == 4 * (FIXED + 120)
    assert first.money_most == pytest.approx((800 + 4 * 400) / 1e6)

    cache.put(request_dict(requests[0], "e"), reply_dict(says("x", 50, 20, thoughts=5)))
    then = estimate(requests, "e", cache, prices)
    assert (then.cached, then.calls) == (1, 3)
    assert then.prompt == pytest.approx(3 * 50) and then.reply == pytest.approx(3 * 25)
    assert then.money == pytest.approx((150 + 300) / 1e6)
    assert estimate(requests, "other", cache, prices).cached == 0
    assert estimate(requests, "e", cache, prices, factor=0.5).money_most == then.money_most / 2


def test_an_estimate_in_words(tmp_path):
    one = Estimate(1500, 250, 50, 400_000.0, 1_000_000, 216_000.0, 1_228_800, 1.264, 5.9, "EUR")
    assert one.lines() == [
        "1,500 requests: 250 in the cache, 50 asked twice, 1,200 calls",
        "prompts: about 400,000 tokens, at most 1,000,000",
        "replies: about 216,000 tokens, at most 1,228,800",
        "money: about 1.26 EUR, at most 5.90 EUR",
    ]
    budget = Budget(calls=2000, tokens=2_000_000, money=5.0, prices=Prices(1, 4, unit="EUR"))
    assert one.lines(budget, Limits(8, requests_a_minute=60))[4:] == [
        "cap: 2,000 calls: enough for all",
        "cap: 2,000,000 tokens: what does not fit will not run",
        "cap: 5.00 EUR: what does not fit will not run",
        "time: at least 20.0 minutes by the limits",
    ]
    unknown = estimate([ask("a", None)], "e", LlmCache(tmp_path))
    assert unknown.lines()[2:] == [
        "replies: not known yet, without a bound (no max_tokens)",
        "money: not known, no prices are set",
    ]
    both = one + Estimate(10, 1, 2, 5.0, 6, None, 7, None, 0.1, "EUR")
    assert (both.requests, both.calls, both.reply, both.reply_most) == (1510, 1207, None, 1_228_807)


def test_a_guess_learns():
    guess = Guess()
    assert guess.tokens(ask("", 100))[1] == 100, "nothing known: the most"
    guess.learn(ask("x" * 120, 100), Usage(50, 10, 10))
    guess.learn(ask("x", 100), Usage(None, 10))
    prompt, reply = guess.tokens(ask("x" * 320, 100))
    assert prompt == pytest.approx(100) and reply == 20
    assert guess.tokens(ask("", 15))[1] == 15


def test_the_key_is_of_the_endpoint_without_secrets():
    request = ask("a", temperature=0)
    plain = request_dict(request, "https://host:8/v1")
    hidden = request_dict(request, "https://name:word@host:8/v1?key=s3cret")
    assert plain == hidden and "s3cret" not in str(hidden) and "word" not in str(hidden)
    assert key_of(plain) == key_of(request_dict(ask("a", temperature=0.0), "https://host:8/v1"))

"""The comparison of quality: what is run and how it is read, and that a peer is fed as we are."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.peers.common import Feed, Job
from bench.quality import arms, table
from bench.quality.arms import ARMS, DATA, JUMPRELU, SEEDS, Arm, Run
from bench.quality.plan import Plan, aims, at, next_knob
from bench.quality.results import Results
from bench.quality.rows import split
from bench.quality.training import raw_jumprelu
from sae.config import shape_for
from sae.presets import preset
from sae.trainer import Trainer
from tests import tiny


def world(run: Run) -> dict:
    """A line as a run would leave it, by laws that can be read off.

    FVE is .9 + .02 log L0, less .01 for every arm but ours, less what the learning rate and the
    seed cost. On held-out documents the other learning rate is the better one.
    """
    arm = ARMS[run.arm]
    l0 = 1.01 * run.l0 if isinstance(arm, Arm) else 16 * (run.knob / 2e-3) ** -0.7
    if run.loss != "step" and not isinstance(arm, Arm):
        l0 = 1.4 * run.knob**0.9
    right = run.lr is None or math.isclose(run.lr, (arm.lrs[1]))
    fve = 0.9 + 0.02 * math.log(l0) - (0.01 if run.arm != JUMPRELU else 0.0)
    fve -= 0.002 * (run.loss == "quadratic") + 0.001 * run.seed * (run.arm != JUMPRELU)
    heldout = {"l0": l0, "fve": fve - 0.003 * right, "delta_loss": 0.1, "dead": 0.02}
    heldout |= {"gamma": 1.0, "high_freq_10": 0.0}
    line = {name: getattr(run, name) for name in Run.__dataclass_fields__} | {"id": run.id}
    calibrate = {"l0": l0, "fve": fve - 0.003 * (not right)}
    return line | {"calibrate": calibrate, "heldout": heldout, "ms_per_step": 5.0, "seconds": 9.0}


@pytest.fixture(scope="module")
def finished() -> Plan:
    """All runs of two data sets, made in the order the plan gives."""
    plan = Plan({}, ("stories", "demo"), tuple(ARMS), SEEDS)
    while to_do := plan.to_do():
        assert to_do[0].id not in plan.lines, "made twice"
        plan = replace(plan, lines=plan.lines | {to_do[0].id: world(to_do[0])})
    return plan


def test_every_arm_ends_with_its_points_and_seeds(finished):
    for arm, a in ARMS.items():
        for seed in SEEDS:
            wanted = 0 if a.lrs is None and seed != 0 else 4
            assert len(table.measured(finished, DATA["stories"], arm, seed)) == wanted, arm
        assert finished.left(DATA["stories"], arm) == 0


def test_tuned_settings_go_first_and_seed_0_of_everything_before_seed_1(finished):
    made = list(finished.lines.values())
    assert [line["seed"] for line in made] == sorted(line["seed"] for line in made)
    ours = [x for x in made if x["arm"] == JUMPRELU and x["data"] == "stories"]
    assert [x["l0"] for x in ours[:6]] == [16, 16, 16, 4, 8, 24]
    assert len({x["lr"] for x in ours[:3]}) == 3 and len({x["lr"] for x in ours[3:]}) == 1
    first_demo = next(i for i, x in enumerate(made) if x["data"] == "demo")
    assert {x["data"] for x in made[:first_demo]} == {"stories"}


def test_settings_are_chosen_on_calibrate_documents_not_on_the_reported_ones(finished):
    for arm, a in ARMS.items():
        if a.lrs is not None:
            assert finished.chosen(DATA["demo"], arm)[1] == a.lrs[1]
    assert finished.chosen(DATA["demo"], "saelens")[0] == "step"
    half_done = Plan({}, ("demo",), (JUMPRELU,), (0,))
    assert half_done.chosen(DATA["demo"], JUMPRELU) is None
    assert half_done.left(DATA["demo"], JUMPRELU) == 6


def test_every_arm_has_as_many_learning_rates():
    assert {len(a.lrs) for a in ARMS.values() if a.lrs is not None} == {3}


def test_a_search_ends_near_its_aim_and_the_other_seeds_repeat_it(finished):
    for arm in ("saelens", "dictionary_learning"):
        for data in (DATA["stories"], DATA["demo"]):
            lines = table.measured(finished, data, arm, 0)
            for aim, line in zip(aims(data), lines, strict=True):
                assert line["heldout"]["l0"] == pytest.approx(aim, rel=0.031)
            again = table.measured(finished, data, arm, 2)
            assert [x["knob"] for x in again] == [x["knob"] for x in lines]


def test_a_failed_run_is_not_made_again():
    plan = Plan({}, ("stories",), (JUMPRELU,), (0,))
    for run in plan.to_do():
        failed = math.isclose(run.lr, preset("small_budget", JUMPRELU).lr)
        line = world(run)
        plan.lines[run.id] = {k: v for k, v in line.items() if k != "calibrate"} if failed else line
    assert {run.l0 for run in plan.to_do()} == {4, 8, 24}


# -- reading


def test_values_are_read_between_an_arms_own_points_only():
    points = [(16.0, 0.96), (4.0, 0.94)]
    assert at(points, 8) == pytest.approx(0.95)  # the middle of log 4 and log 16
    assert at(points, 16) == pytest.approx(0.96)
    assert at(points, 16.5) == pytest.approx(0.96 + 0.02 * math.log(16.5 / 16) / math.log(4))
    assert at(points, 17) is None and at(points, 3.8) is None
    assert at(points[:1], 16) is None
    three = [*points, (64.0, 1.0)]
    assert at(three, 32) == pytest.approx(0.98)


def test_an_interval_of_three_values():
    mean, half = table.interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.302653 / math.sqrt(3))
    assert table.interval([1.0]) == (1.0, None)


def test_differences_are_paired_by_seed(finished):
    rows = {(r["data"], r["l0"], r["arm"]): r for r in table.rows(finished)}
    row = rows["stories", 16, "batchtopk"]
    # By the law of `world` a seed costs .001 each: -.010, -.011, -.012.
    assert row["fve_minus_ours"] == pytest.approx(-0.011)
    assert row["fve_interval"] == pytest.approx(4.302653 * 0.001 / math.sqrt(3), rel=1e-5)
    assert row["fve_seeds"] == 3 and row["dead"] == pytest.approx(0.02)
    assert rows["stories", 16, JUMPRELU]["fve_minus_ours"] is None
    shown = table.text(list(rows.values()))
    assert "-110.0 +-24.8" in shown and "stories, L0 16" in shown
    assert "matryoshka" in table.points_text(table.points(finished))


def test_next_knob_is_read_off_between_and_drawn_on_beyond():
    assert next_knob([(1.0, 16.2)], 16, -0.7) is None
    assert next_knob([(1.0, 32.0)], 16, -0.5) == pytest.approx(4.0)
    assert next_knob([(1.0, 4.0), (4.0, 16.0)], 8, -0.5) == pytest.approx(2.0)
    assert next_knob([(1e-4, 4.0), (4e-4, 16.0)], 8, -0.5) == pytest.approx(2e-4)
    assert next_knob([(1.0, 4.0), (2.0, 8.0)], 16, 1.0) == pytest.approx(4.0)
    assert next_knob([(1.0, 1e-9)], 16, 1.0) == pytest.approx(5.0)  # never further than 5 times
    assert next_knob([(1.0 + i, 30.0) for i in range(5)], 16, 1.0) is None  # given up


# -- the file


def test_lines_of_another_recipe_and_torn_ones_are_left_out(tmp_path, monkeypatch):
    results, run = Results(tmp_path / "r.jsonl"), Run("demo", JUMPRELU, 8.0, 1e-2, 0, 1000)
    assert results.lines() == {}
    results.path.write_text('{"data": "de')
    results.append(world(run))
    assert list(results.lines()) == [run.id]
    monkeypatch.setattr(arms, "RECIPE", arms.RECIPE + 1)
    assert results.lines() == {}
    assert Run("demo", JUMPRELU, 8.0, 1e-2, 0, 1000).id != run.id


def test_the_recipe_is_told_by_the_training_configuration(monkeypatch):
    a = Run("demo", JUMPRELU, 8.0, 1e-2, 0, 1000)
    b = Run("demo", JUMPRELU, 8.0, 1e-2, 2, 500)
    assert a.recipe == b.recipe and a.id != b.id
    monkeypatch.setitem(ARMS, JUMPRELU, Arm("jumprelu", {"kernel": "triangular"}))
    assert Run("demo", JUMPRELU, 8.0, 1e-2, 0, 1000).recipe != a.recipe


def test_a_run_is_claimed_by_one_process_and_free_when_it_ends(tmp_path):
    results, run = Results(tmp_path / "r.jsonl"), Run("demo", JUMPRELU, 8.0, 1e-2, 0, 1000)
    with results.claim(run) as first, results.claim(run) as second:
        assert (first, second) == (True, False)
    with results.claim(run) as again:
        assert again
        results.append(json.loads(json.dumps(world(run))))
    with results.claim(run) as after:
        assert not after


# -- training


def test_a_peer_sees_our_batches_and_starts_from_our_weights(tmp_path):
    rows = 2 + torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "train.npy", rows.numpy())
    job = Job(str(tmp_path / "train.npy"), "", 32, 64, 100, 3, 1e-3, 4.0, 4.0, "step")
    config = preset("small_budget", JUMPRELU, l0=4.0, seed=3, batch=64, tokens=6400)
    trainer = Trainer(rows, shape_for(8, 32, config), config)
    feed = Feed(job, raw=False)
    for ours, theirs, _ in zip(trainer.batches(), feed, range(12), strict=False):
        torch.testing.assert_close(trainer.units(ours), theirs, rtol=0, atol=0)
    weights, bandwidth = feed.start(job)
    for (name, ours), (_, theirs) in zip(trainer.weights.items(), weights.items(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)
    assert bandwidth > 0


def test_batches_drawn_for_a_peers_own_scale_do_not_move_the_training(tmp_path):
    np.save(tmp_path / "train.npy", np.random.default_rng(0).normal(size=(300, 8)).astype("f4"))
    job = Job(str(tmp_path / "train.npy"), "", 32, 64, 100, 3, None, 4.0, 4.0, "docs-step")
    after, at_once = Feed(job, raw=True, before=2), Feed(job, raw=True)
    drawn = [next(after), next(after)]
    training = next(at_once)
    assert not any(torch.equal(batch, training) for batch in drawn)
    torch.testing.assert_close(next(after), training, rtol=0, atol=0)


@pytest.mark.parametrize("pre_encoder_bias", [False, True])
def test_a_peers_weights_become_the_same_sae_on_raw_rows(pre_encoder_bias):
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (6, 10), "b_enc": (10,), "W_dec": (10, 6), "b_dec": (6,), "centre": (6,)}
    w = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    w["threshold"] = torch.rand(10, generator=generator) - 0.2  # one may be below 0
    raw, scale = torch.randn(50, 6, generator=generator), 2.5
    x = (raw - w["centre"]) / scale
    pre = (x - w["b_dec"] * pre_encoder_bias) @ w["W_enc"] + w["b_enc"]
    f = pre.relu() * (pre > w["threshold"])
    sae = raw_jumprelu(w, scale, pre_encoder_bias)
    expected = scale * (f @ w["W_dec"] + w["b_dec"]) + w["centre"]
    torch.testing.assert_close(sae(raw), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(sae.encode(raw) > 0, f > 0)
    torch.testing.assert_close(torch.linalg.vector_norm(sae.W_dec, dim=1), torch.ones(10))


def test_no_document_serves_two_purposes(tmp_path):
    lm = tiny.language_model()
    cache = tiny.cache(tmp_path / "cache", lm, tiny.sentences(150))
    rows = split(cache, lm, tmp_path / "rows")
    of_row: dict[bytes, set[int]] = {}
    for x, document in zip(np.array(cache.x), cache.doc, strict=True):
        of_row.setdefault(x.tobytes(), set()).add(int(document))

    def documents(x) -> set[int]:
        found = [of_row[np.asarray(row).tobytes()] for row in x]
        # Documents that begin alike share rows; each has others of its own.
        return set().union(*(of for of in found if len(of) == 1))

    parts = [documents(x) for x in (rows.train, rows.fit, rows.choose)]
    parts.append(set(cache.doc[cache.rows_of(rows.heldout)].tolist()))
    assert all(parts) and sum(map(len, parts)) == len(set().union(*parts))
    assert set().union(*parts) == set(cache.doc.tolist())
    assert abs(len(parts[1]) - len(parts[2])) <= 1

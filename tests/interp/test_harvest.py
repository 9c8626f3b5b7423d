"""Every number of a harvest against a slow, literal computation of what docs/METHODS.md says."""

import numpy as np
import pytest
import torch

from data.errors import WorkbenchError
from data.features_store import FeatureStore, write_features
from data.records import Document
from data.schema import open_root
from data.tokens import ContextMaker, ContextRule
from interp import harvest
from interp.harvest import Harvest, HarvestConfig
from tests import tiny
from tests.interp.conftest import TEXTS

CONFIG = HarvestConfig(top=5, active=6, random=3, seed=11)
DEAD, ALWAYS = 38, 39
M = 2**64


def _mix(z):
    """SplitMix64's finaliser in Python's own integers."""
    z = (z + 0x9E3779B97F4A7C15) % M
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % M
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % M
    return z ^ (z >> 31)


def _token_hash(doc, position, seed=CONFIG.seed):
    return _mix(((int(doc) << 32) | int(position)) ^ _mix(seed))


def _run(cache, sae, lm, config=CONFIG):
    run = Harvest(sae, cache, lm, config)
    steps = list(run)
    return run, {name: table.to_pylist() for name, table in run.tables().items()}, steps


@pytest.fixture(scope="module", params=["separate", "packed"])
def run(request, exact, lm):
    cache, sae = exact[request.param]
    made, tables, steps = _run(cache, sae, lm)
    f = sae.encode(torch.from_numpy(np.array(cache.x))).numpy()
    return {"cache": cache, "sae": sae, "run": made, "f": f, "steps": steps, **tables}


def _examples(run, feature, kind):
    found = [e for e in run["examples"] if e["feature"] == feature and e["kind"] == kind]
    assert [e["rank"] for e in found] == list(range(len(found)))
    return found


def _row(run, example):
    """The cache's row an example was chosen for."""
    cache = run["cache"]
    position = example["start"] + example["peak"]
    (row,) = np.flatnonzero((cache.doc == example["doc"]) & (cache.position == position))
    return int(row)


# ---------------------------------------------------------------- statistics


def test_counts_sums_means_and_maxima(run):
    f = run["f"].astype(np.float64)
    assert len(run["features"]) == 40
    for i, row in enumerate(run["features"]):
        fires = int((f[:, i] > 0).sum())
        assert row["feature"] == i and row["fires"] == fires
        assert row["density"] == fires / len(f) and row["total"] == f[:, i].sum()
        assert row["mean"] == (f[:, i].sum() / fires if fires else None)
        assert row["max"] == (f[:, i].max() if fires else None)
        assert row["theta"] == run["sae"].threshold[i].item()
    densities = [row["density"] for row in run["features"]]
    assert 0.02 < np.median(densities) < 0.2, "the features must neither all sleep nor all fire"


def test_a_dead_and_an_always_active_feature(run):
    dead, always = run["features"][DEAD], run["features"][ALWAYS]
    assert (dead["fires"], dead["total"], dead["mean"], dead["max"]) == (0, 0.0, None, None)
    assert (dead["peak_token"], dead["peak_share"]) == (None, None)
    assert sum(dead["hist_counts"]) == 0 and sum(dead["pre_counts"]) > 0
    assert _examples(run, DEAD, "top") == _examples(run, DEAD, "active") == []
    assert len(_examples(run, DEAD, "random")) == 3
    assert all(e["max"] == 0 and e["act_index"] == [] for e in _examples(run, DEAD, "random"))
    assert always["density"] == 1.0
    assert sum(always["hist_counts"]) == always["fires"] == run["cache"].n_rows


def test_the_number_of_active_features_per_token(run):
    l0 = np.bincount((run["f"] > 0).sum(1), minlength=41)
    assert run["run"].stats.l0.tolist() == l0.tolist()


def test_histogram_of_activations(run):
    stats, f, x = run["run"].stats, run["f"], np.array(run["cache"].x, dtype=np.float64)
    edges = np.sqrt((x**2).sum(1).mean()) * 2.0 ** np.arange(-12, 6.25, 0.25)
    np.testing.assert_allclose(stats.hist_edges, edges)
    for i, row in enumerate(run["features"]):
        expected = [0] * 74
        for value in f[:, i][f[:, i] > 0]:
            expected[int(np.sum(edges <= value))] += 1
        assert row["hist_counts"] == expected


def test_values_beyond_the_edges_are_counted_in_the_outer_bins(cache, lm):
    sae = tiny.random_sae(cache.x, 4)
    with torch.no_grad():
        sae.W_enc[:, :2] = 0
        sae.threshold[:2] = 0
        sae.b_enc[0], sae.b_enc[1] = 1e9, 1e-9
    _, tables, _ = _run(cache, sae, lm)
    high, low = (row["hist_counts"] for row in tables["features"][:2])
    assert high[-1] == low[0] == cache.n_rows == sum(high) == sum(low)


def test_histogram_of_preactivations_on_the_sampled_tokens(run):
    cache, stats = run["cache"], run["run"].stats
    where = zip(cache.doc.tolist(), cache.position.tolist(), strict=True)
    sampled = np.array([_token_hash(*w) % 16 == 0 for w in where])
    assert stats.n_pre == sampled.sum() > 20
    pre = run["sae"].pre(torch.from_numpy(np.array(cache.x))).numpy()[sampled]
    scale = np.sqrt((np.array(cache.x, dtype=np.float64) ** 2).sum(1).mean())
    for i, row in enumerate(run["features"]):
        unit = row["theta"] if row["theta"] > 0 else scale
        assert row["pre_unit"] == pytest.approx(unit, rel=1e-6)
        low = np.linspace(-6, 4, 101)
        # Nudged off the edges: which side of one a value lands on is rounding.
        bins = [[np.sum(low <= v / unit + nudge) for v in pre[:, i]] for nudge in (-1e-5, 1e-5)]
        counts = [np.cumsum(np.bincount(b, minlength=102)) for b in bins]
        found = np.cumsum(row["pre_counts"])
        assert len(row["pre_counts"]) == 102 and found[-1] == sampled.sum()
        assert (counts[1] <= found).all() and (found <= counts[0]).all()


def test_a_feature_without_threshold_is_measured_in_the_activations_scale(cache, lm):
    sae = tiny.random_sae(cache.x, 4)
    with torch.no_grad():
        sae.threshold[0] = 0
    _, tables, _ = _run(cache, sae, lm)
    scale = np.sqrt((np.array(cache.x, dtype=np.float64) ** 2).sum(1).mean())
    assert tables["features"][0]["pre_unit"] == pytest.approx(scale, rel=1e-6)


# ---------------------------------------------------------------- which examples


def test_top_examples_are_the_best_of_each_document(run):
    cache, f, ties = run["cache"], run["f"], 0
    for i in range(40):
        best = {}
        for row in np.flatnonzero(f[:, i] > 0):
            doc, position = int(cache.doc[row]), int(cache.position[row])
            key = (-float(f[row, i]), _mix(_token_hash(doc, position) ^ _mix(i)), row)
            best[doc] = min(best.get(doc, key), key)
        expected = sorted(best.values())[: CONFIG.top]
        found = _examples(run, i, "top")
        assert [(-e["max"], _row(run, e)) for e in found] == [(k[0], k[2]) for k in expected]
        assert all(e["inclusion"] == 1.0 for e in found)
        assert len({e["doc"] for e in found}) == len(found)
        values = [k[0] for k in sorted(best.values())]
        ties += len(values) != len(set(values))
    assert ties > 20, "equal activations must occur, or nothing is shown of their order"


def test_active_examples_are_the_smallest_hashes_of_all_fires(run):
    cache, f, sampled = run["cache"], run["f"], 0
    for i in range(40):
        hashes = sorted(
            (_mix(_token_hash(cache.doc[row], cache.position[row]) ^ _mix(i)), int(row))
            for row in np.flatnonzero(f[:, i] > 0)
        )
        found = _examples(run, i, "active")
        assert [_row(run, e) for e in found] == [row for _, row in hashes[: CONFIG.active]]
        beyond = len(hashes) > CONFIG.active
        inclusion = hashes[CONFIG.active][0] / M if beyond else 1.0
        assert [e["inclusion"] for e in found] == [pytest.approx(inclusion, rel=1e-12)] * len(found)
        assert [e["max"] for e in found] == [f[_row(run, e), i] for e in found]
        sampled += beyond
    assert sampled > 20


def test_inclusion_probabilities_weigh_the_sample_up_to_the_whole(exact, lm):
    """Horvitz and Thompson: the sum of value / inclusion estimates a feature's total."""
    cache, sae = exact["separate"]
    f = sae.encode(torch.from_numpy(np.array(cache.x))).numpy().astype(np.float64)
    often = np.flatnonzero((f > 0).sum(0) > 40)
    estimates = []
    for seed in range(30):
        config = HarvestConfig(top=0, active=6, random=0, seed=seed)
        _, tables, _ = _run(cache, sae, lm, config)
        sums = np.zeros(40)
        for e in tables["examples"]:
            sums[e["feature"]] += e["max"] / e["inclusion"]
        estimates.append(sums[often].sum() / f[:, often].sum())
    assert len(often) > 5
    assert abs(np.mean(estimates) - 1) < 4 * np.std(estimates) / np.sqrt(30)
    assert np.std(estimates) < 0.4


def test_random_examples_are_spread_evenly_over_all_tokens(run):
    n = run["cache"].n_rows
    rows = np.array([[_row(run, e) for e in _examples(run, i, "random")] for i in range(40)])
    assert rows.shape == (40, 3)
    for rank in range(3):
        assert (rows[:, rank] >= rank * n // 3).all() and (rows[:, rank] < (rank + 1) * n / 3).all()
    assert len(set(map(tuple, rows.tolist()))) > 30, "each feature has its own"
    shares = {e["inclusion"] for e in run["examples"] if e["kind"] == "random"}
    assert shares == {3 / n}


def test_peak_token_is_the_commonest_among_the_active_examples(run):
    cache = run["cache"]
    for i, row in enumerate(run["features"]):
        rows = [_row(run, e) for e in _examples(run, i, "active")]
        ids = [int(cache.ids[cache.context[r], cache.column[r]]) for r in rows]
        if ids:
            most = max(map(ids.count, ids))
            assert row["peak_token"] == min(t for t in ids if ids.count(t) == most)
            assert row["peak_share"] == most / len(ids)


# ---------------------------------------------------------------- what they show


def _where(cache):
    """(doc, position) of every column of every context, masked tokens included."""
    rule = ContextRule(**cache.manifest["spec"]["rule"])
    maker = ContextMaker(tiny.tokenizer(), rule, 10**9, 8)
    made = list(maker(Document(str(i), text) for i, text in enumerate(TEXTS)))
    return np.concatenate([b.doc for b in made]), np.concatenate([b.position for b in made])


def test_windows_are_the_whole_context_of_the_document(run):
    cache, f = run["cache"], run["f"]
    docs, positions = _where(cache)
    where = zip(cache.context.tolist(), cache.column.tolist(), strict=True)
    row_at = {place: row for row, place in enumerate(where)}
    masked = 0
    for e in run["examples"]:
        row = _row(run, e)
        context = int(cache.context[row])
        columns = np.flatnonzero(docs[context] == e["doc"])
        assert e["start"] == positions[context, columns[0]] and e["length"] == len(columns)
        assert e["start"] + e["peak"] == cache.position[row]
        ids = cache.document_ids[e["doc"]][e["start"] : e["start"] + e["length"]]
        assert ids.tolist() == cache.ids[context, columns].tolist()
        rows = [row_at.get((context, int(k))) for k in columns]
        values = [0.0 if r is None else float(f[r, e["feature"]]) for r in rows]
        expected = {i: v for i, v in enumerate(values) if v > 0}
        assert dict(zip(e["act_index"], e["act_value"], strict=True)) == expected
        assert e["max"] == values[e["peak"]]
        masked += None in rows
    assert masked > 0, "some windows must hold masked tokens"


def test_values_are_the_saes_on_the_models_own_activations(cache, lm):
    """From text alone: model, SAE, no cache."""
    sae = tiny.random_sae(cache.x, 12)
    _, tables, _ = _run(cache, sae, lm)
    checked = 0
    for e in tables["examples"][::5]:
        ids = cache.document_ids[e["doc"]][e["start"] : e["start"] + e["length"]]
        x = lm.capture(torch.tensor([[0, *ids.tolist()]]), ["resid_post.1"])["resid_post.1"][0, 1:]
        f = sae.encode(x)[:, e["feature"]].numpy()
        dense = np.zeros(e["length"])
        dense[e["act_index"]] = e["act_value"]
        near = (
            np.abs(sae.pre(x)[:, e["feature"]].numpy() - sae.threshold[e["feature"]].item()) < 1e-4
        )
        ordinary = (np.arange(e["length"]) >= 2) & (ids > 2) & ~near
        np.testing.assert_allclose(dense[ordinary], f[ordinary], rtol=1e-3, atol=1e-4)
        assert (dense[~((np.arange(e["length"]) >= 2) & (ids > 2))] == 0).all()
        checked += ordinary.sum()
    assert checked > 100


def test_documents_and_tokens_are_those_of_the_cache(run, lm):
    cache = run["cache"]
    for row, document, ids in zip(run["docs"], cache.documents, cache.document_ids, strict=True):
        assert row == {**vars(document), "ids": ids.tolist()}
    assert [t["id"] for t in run["tokens"]] == list(range(len(lm.tokenizer)))
    assert run["tokens"][0] == {"id": 0, "bytes": tiny.BOS.encode(), "special": True}


def test_the_store_gives_the_same_examples_back(run, tmp_path):
    made = run["run"]
    content = write_features(tmp_path / "features.duckdb", {"sae": "x"}, **made.tables())
    root = open_root()
    store = FeatureStore(root, tmp_path / "features.duckdb")
    assert store.meta["content_hash"] == content and store.n_features == 40
    kinds = ["top", "active", "random"]
    for feature in (0, 7, DEAD, ALWAYS):
        expected = [e for kind in kinds for e in _examples(run, feature, kind)]
        for e, want in zip(store.examples(feature), expected, strict=True):
            ids = run["cache"].document_ids[want["doc"]][want["start"] :][: want["length"]]
            assert e.ids == tuple(ids.tolist()) and e.values[e.peak] == e.max == want["max"]
            nonzero = {i: v for i, v in enumerate(e.values) if v}
            assert nonzero == dict(zip(want["act_index"], want["act_value"], strict=True))
    root.close()


# ---------------------------------------------------------------- what must not matter


@pytest.mark.parametrize("which", ["separate", "packed"])
@pytest.mark.parametrize(("batch", "chunk"), [(37, 50), (5, 64), (10_000, 10_000), (64, 129)])
def test_batches_and_chunks_change_nothing(which, batch, chunk, exact, lm, monkeypatch):
    cache, sae = exact[which]
    before = Harvest(sae, cache, lm, CONFIG)
    list(before)
    monkeypatch.setattr(harvest, "BATCH", batch)
    monkeypatch.setattr(harvest, "CHUNK", chunk)
    after = Harvest(sae, cache, lm, CONFIG)
    assert len(list(after)) > 1
    assert after.stats.hist_edges.tolist() == before.stats.hist_edges.tolist()
    assert after.stats.l0.tolist() == before.stats.l0.tolist()
    old, new = before.tables(), after.tables()
    for name in old:
        assert new[name].equals(old[name]), name


def test_the_seed_changes_the_samples_and_not_the_statistics(exact, lm):
    cache, sae = exact["separate"]
    _, one, _ = _run(cache, sae, lm, HarvestConfig(5, 6, 3, seed=1))
    _, two, _ = _run(cache, sae, lm, HarvestConfig(5, 6, 3, seed=2))
    for a, b in zip(one["features"], two["features"], strict=True):
        assert (a["fires"], a["total"], a["hist_counts"]) == (
            b["fires"],
            b["total"],
            b["hist_counts"],
        )
    assert one["examples"] != two["examples"]
    assert _run(cache, sae, lm, HarvestConfig(5, 6, 3, seed=1))[1] == one


def test_progress_reaches_its_end_in_both_phases(run):
    for phase in ("encode", "examples"):
        steps = [s for s in run["steps"] if s.phase == phase]
        done = [s.done for s in steps]
        assert done == sorted(done) and done[-1] == steps[-1].total


@pytest.mark.parametrize("name", ["top", "active", "random"])
def test_any_kind_can_be_left_out(name, exact, lm):
    cache, sae = exact["separate"]
    config = HarvestConfig(**{"top": 2, "active": 2, "random": 2, name: 0})
    _, tables, _ = _run(cache, sae, lm, config)
    assert {e["kind"] for e in tables["examples"]} == {"top", "active", "random"} - {name}
    if name == "active":
        assert {row["peak_token"] for row in tables["features"]} == {None}


def test_an_sae_that_never_fires_has_statistics_and_no_examples(exact, lm):
    cache, _ = exact["separate"]
    sae = tiny.random_sae(cache.x, 3)
    with torch.no_grad():
        sae.threshold[:] = 1e9
    _, tables, _ = _run(cache, sae, lm, HarvestConfig(2, 2, 0))
    assert tables["examples"] == [] and [r["fires"] for r in tables["features"]] == [0, 0, 0]


@pytest.mark.parametrize("name", ["top", "active", "random", "seed"])
def test_negative_numbers_are_refused(name):
    with pytest.raises(WorkbenchError, match=f"--{name} -1"):
        HarvestConfig(**{name: -1})

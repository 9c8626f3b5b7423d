"""Every number of a harvest against a slow, literal computation of what docs/METHODS.md says."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import stats as scipy_stats

from data.features_store import BANDS, MISSES, FeatureStore, write_features
from data.records import Document
from data.schema import open_root
from data.tokens import ContextMaker, ContextRule
from interp import harvest, selection, stats
from interp import tables as tables_module
from interp.corpus import Corpus
from interp.harvest import Harvest, HarvestConfig
from sae.models import MODELS, JumpReLUSAE
from tests import tiny
from tests.interp.conftest import TEXTS

CONFIG = HarvestConfig(top=5, quantile=3, active=6, near_miss=4, random=3, seed=11)
KINDS = ("top", "quantile", "active", "near_miss", "random")
DEAD, ALWAYS = 38, 39
M = 2**64


def _mix(z):
    """SplitMix64's finaliser in Python's own integers."""
    z = (z + 0x9E3779B97F4A7C15) % M
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % M
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % M
    return z ^ (z >> 31)


def _tie(cache, row, feature=None, seed=CONFIG.seed):
    where = (int(cache.doc[row]) << 32) | int(cache.position[row])
    own = _mix(where ^ _mix(seed))
    return own if feature is None else _mix(own ^ _salt(feature, seed))


def _salt(feature, seed=CONFIG.seed):
    return _mix(feature ^ _mix(_mix(seed)))


def _text(cache, row, seed=CONFIG.seed):
    """Hash of the token and eight on either side, in its document."""
    ids = cache.document_ids[int(cache.doc[row])].tolist()
    at, total = int(cache.position[row]), 0
    for number, offset in enumerate(range(-8, 9)):
        if 0 <= at + offset < len(ids):
            total += _mix(ids[at + offset] ^ _mix(seed)) * (_mix(number) | 1)
    return _mix(total % M)


def _run(cache, sae, lm, config=CONFIG, scratch=None):
    run = Harvest(sae, cache, lm, config, scratch)
    steps = list(run)
    return run, {name: _rows(table) for name, table in run.tables().items()}, steps


def _rows(tables):
    tables = [tables] if isinstance(tables, pa.Table) else tables
    return [row for table in tables for row in table.to_pylist()]


@pytest.fixture(scope="module", params=["separate", "packed"])
def run(request, exact, lm):
    cache, sae = exact[request.param]
    made, tables, steps = _run(cache, sae, lm)
    x = torch.from_numpy(np.array(cache.x))
    pre, f = sae.pre(x).numpy(), sae.encode(x).numpy()
    return {"cache": cache, "sae": sae, "run": made, "pre": pre, "f": f, "steps": steps, **tables}


def _examples(run, feature, kind, part=""):
    wanted = (feature, kind, part)
    found = [e for e in run["example"] if (e["feature"], e["kind"], e["part"]) == wanted]
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
    f, cache = run["f"].astype(np.float64), run["cache"]
    assert len(run["feature"]) == 40
    for i, row in enumerate(run["feature"]):
        on = f[:, i] > 0
        fires, values = int(on.sum()), f[on, i]
        assert row["feature"] == i and row["fires"] == fires
        assert row["density"] == fires / len(f) and row["total"] == values.sum()
        assert row["total_squares"] == (values**2).sum()
        assert row["mean"] == (values.sum() / fires if fires else None)
        assert row["max"] == (values.max() if fires else None)
        assert row["theta"] == run["sae"].threshold[i].item()
        docs = cache.doc[on]
        assert row["first_doc"] == (docs.min() if fires else None)
        assert row["last_doc"] == (docs.max() if fires else None)
    densities = [row["density"] for row in run["feature"]]
    assert 0.02 < np.median(densities) < 0.2, "the features must neither all sleep nor all fire"


def test_moments_are_scipys(run):
    for i, row in enumerate(run["feature"]):
        values = run["f"][:, i][run["f"][:, i] > 0].astype(np.float64)
        if len(values) > 1 and values.std() > 0:
            assert row["sd"] == pytest.approx(values.std(), rel=1e-9)
            assert row["skew"] == pytest.approx(scipy_stats.skew(values), rel=1e-6, abs=1e-9)
            assert row["kurtosis"] == pytest.approx(
                scipy_stats.kurtosis(values), rel=1e-6, abs=1e-9
            )
        elif len(values):
            assert row["sd"] == 0 and row["skew"] is None and row["kurtosis"] is None


def test_nearly_equal_values_have_no_skew_and_kurtosis():
    """Raw powers cancel: what is left there is rounding."""
    rng = np.random.default_rng(0)
    s = stats.StreamingStats(3, 1.0, np.ones(3), 32)
    values = [1 + deviation * rng.normal(size=1000) for deviation in (1e-5, 1e-3, 0.1)]
    f, v = np.repeat(np.arange(3), 1000), np.concatenate(values).astype(np.float32)
    places = np.zeros(1000, dtype=np.int64)
    rows = stats.Rows(places, places, places > 0)
    s.update(stats.Entries(f, np.tile(np.arange(1000), 3), v), rows)
    found = s.moments()
    assert np.isnan(found["skew"]).tolist() == [True, False, False]
    assert np.isnan(found["kurtosis"]).tolist() == [True, True, False]
    assert found["kurtosis"][2] == pytest.approx(scipy_stats.kurtosis(v[2000:]), abs=1e-4)


def test_quantiles_lie_within_their_error_of_the_true_ones(run):
    for i, row in enumerate(run["feature"]):
        values = np.sort(run["f"][:, i][run["f"][:, i] > 0].astype(np.float64))
        for name, level in (("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)):
            if len(values) == 0:
                assert row[name] is None and row["quantile_error"] is None
                continue
            true = np.quantile(values, level, method="inverted_cdf")
            assert abs(true - row[name]) <= row["quantile_error"] * row[name] * (1 + 1e-9)
            assert row["quantile_error"] <= 0.0313


def test_a_dead_and_an_always_active_feature(run):
    dead, always = run["feature"][DEAD], run["feature"][ALWAYS]
    assert (dead["fires"], dead["total"], dead["mean"], dead["max"]) == (0, 0.0, None, None)
    assert (dead["peak_token"], dead["peak_share"]) == (None, None)
    assert dead["dead"] and not dead["rare"] and dead["hist_counts"] == []
    assert sum(dead["pre_counts"]) > 0
    assert {e["kind"] for e in run["example"] if e["feature"] == DEAD} == {"near_miss", "random"}
    assert len(_examples(run, DEAD, "random")) == 3
    assert all(e["max"] == 0 and e["act_index"] == [] for e in _examples(run, DEAD, "random"))
    assert always["density"] == 1.0 and always["dense_1"] and always["dense_10"]
    assert sum(always["hist_counts"]) == always["fires"] == run["cache"].n_rows
    silent = {e["kind"] for e in run["example"] if e["feature"] == ALWAYS}
    assert silent == {"top", "quantile", "active"}, "it is never silent"


def test_the_number_of_active_features_per_token(run):
    assert run["run"].l0.tolist() == (run["f"] > 0).sum(1).tolist()


def test_histogram_of_activations(run):
    x = np.array(run["cache"].x, dtype=np.float64)
    octave = int(np.floor(np.log2(np.sqrt((x**2).sum(1).mean()))))
    edges = [2.0**e * (1 + j / 8) for e in range(octave - 12, octave + 6) for j in range(8)]
    edges.append(2.0 ** (octave + 6))
    assert stats.Histogram(run["run"].corpus.scale).edges.tolist() == edges
    for i, row in enumerate(run["feature"]):
        expected = [0] * (len(edges) + 1)
        for value in run["f"][:, i][run["f"][:, i] > 0]:
            expected[int(np.sum(np.array(edges) <= value))] += 1
        found = [0] * row["hist_first"] + row["hist_counts"]
        assert found + [0] * (len(expected) - len(found)) == expected
        assert row["hist_counts"][:1] != [0] != row["hist_counts"][-1:]


def test_values_beyond_the_edges_are_counted_in_the_outer_bins(cache, lm):
    sae = tiny.random_sae(cache.x, 4)
    with torch.no_grad():
        sae.W_enc[:, :2] = 0
        sae.threshold[:2] = 0
        sae.b_enc[0], sae.b_enc[1] = 1e9, 1e-9
    _, tables, _ = _run(cache, sae, lm)
    high, low = tables["feature"][:2]
    assert high["hist_counts"] == low["hist_counts"] == [cache.n_rows]
    assert (high["hist_first"], low["hist_first"]) == (145, 0)
    assert low["q50"] == pytest.approx(1e-9, rel=0.6), "between 0 and the largest there"


def test_histogram_of_preactivations_on_the_sampled_tokens(run):
    cache = run["cache"]
    sampled = np.array([_tie(cache, row) % 16 == 0 for row in range(cache.n_rows)])
    assert run["run"].facts["n_pre"] == sampled.sum() > 20
    pre = run["pre"][sampled]
    scale = np.sqrt((np.array(cache.x, dtype=np.float64) ** 2).sum(1).mean())
    for i, row in enumerate(run["feature"]):
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
    assert tables["feature"][0]["pre_unit"] == pytest.approx(scale, rel=1e-6)


def test_fires_by_position_in_the_context(run):
    cache, edges = run["cache"], [0, 1, 2, 4, 8, 16]
    assert run["run"].corpus.edges.tolist() == edges
    column = np.asarray(cache.column) - 1  # counted after BOS
    for i, row in enumerate(run["feature"]):
        here = column[run["f"][:, i] > 0]
        expected = [
            int(((here >= a) & (here < b)).sum())
            for a, b in zip(edges[:-1], edges[1:], strict=True)
        ]
        assert row["positions"] == expected
    rows = run["run"].facts["position_rows"]
    assert rows.sum() == cache.n_rows and rows[0] == (column == 0).sum()


def test_flags_of_planted_features(exact, lm):
    """One that fires on few positions, one on loud tokens, one on a single token, by construction:
    the statistics are given, not measured."""
    s = stats.StreamingStats(4, 1.0, np.ones(4), 32)
    rows = stats.Rows(np.arange(1000), np.where(np.arange(1000) < 20, 0, 5), np.arange(1000) >= 970)
    f = np.repeat(np.arange(4), [15, 20, 40, 5])
    r = np.concatenate([np.arange(15), np.arange(970, 990), np.arange(100, 140), np.arange(5)])
    s.update(stats.Entries(f, r, np.ones(len(f), np.float32)), rows)
    bound = tables_module._at_few_positions(s.positions, s.position_rows)
    assert bound.tolist() == [True, False, False, True]
    assert s.outliers.tolist() == [0, 20, 0, 0] and s.outlier_rows == 30


# ---------------------------------------------------------------- which examples


def _once(cache, rows):
    """Rows without those whose text stood before."""
    seen, kept = set(), []
    for row in rows:
        if (text := _text(cache, row)) not in seen:
            kept.append(row)
            seen.add(text)
    return kept


def test_top_examples_are_the_best_of_each_document(run):
    cache, f, ties = run["cache"], run["f"], 0
    for i in range(40):
        best = {}
        for row in np.flatnonzero(f[:, i] > 0):
            key = (-float(f[row, i]), _tie(cache, row, i) >> 32, _tie(cache, row, i), int(row))
            group = cache.documents[int(cache.doc[row])].min_hash
            best[group] = min(best.get(group, key), key)
        rows = [key[-1] for key in sorted(best.values())[: 3 * CONFIG.top]]
        found = _examples(run, i, "top")
        assert [_row(run, e) for e in found] == _once(cache, rows)[: CONFIG.top]
        assert [e["max"] for e in found] == [f[_row(run, e), i] for e in found]
        assert all(e["inclusion"] == 1.0 for e in found)
        assert len({e["doc"] for e in found}) == len(found)
        values = [key[0] for key in sorted(best.values())]
        ties += len(values) != len(set(values))
    assert ties > 20, "equal activations must occur, or nothing is shown of their order"


def _by_hash(run, i, rows):
    """[(hash, rows of that text)] in the order of the hashes."""
    found = {}
    for row in rows:
        found.setdefault(_text(run["cache"], row) ^ _salt(i), []).append(int(row))
    return sorted(found.items())


def test_active_examples_are_the_smallest_hashes_of_all_fires(run):
    cache, f, sampled = run["cache"], run["f"], 0
    for i in range(40):
        hashes = _by_hash(run, i, np.flatnonzero(f[:, i] > 0))
        found = _examples(run, i, "active")
        kept = hashes[: CONFIG.active]
        assert len(found) == len(kept)
        beyond = len(hashes) > CONFIG.active
        inclusion = hashes[CONFIG.active][0] / M if beyond else 1.0
        for e, (_, rows) in zip(found, kept, strict=True):
            assert _row(run, e) == _drawn(cache, rows) and e["copies"] == len(rows)
            assert e["inclusion"] == pytest.approx(inclusion, rel=1e-12)
            assert e["max"] == f[_row(run, e), i]
        sampled += beyond
    assert sampled > 20 and cache.n_rows > 100


def _literal_bands(run, i):
    """part -> (where it begins, the rows of its fires): cut at the edge of a 32nd of an octave
    above which the number of fires is nearest to the share."""
    values, cache = run["f"][:, i].astype(np.float64), run["cache"]
    octave = int(np.floor(np.log2(np.sqrt((np.array(cache.x, float) ** 2).sum(1).mean()))))
    edges = [2.0**e * (1 + j / 32) for e in range(octave - 12, octave + 6) for j in range(32)]
    edges = [0.0, *edges, 2.0 ** (octave + 6), 2.0**128]
    n, found, high = int((values > 0).sum()), {}, 2.0**128
    for part, percent in zip(selection.BANDS, (1, 10, 50, 100), strict=True):
        above = [int(((values >= edge) & (values > 0)).sum()) for edge in edges]
        off = [abs(100 * a - percent * n) for a in above]
        low = min(zip(off, [-a for a in above], edges, strict=True))[2]
        found[part] = low, np.flatnonzero((values > 0) & (values >= low) & (values < high))
        high = low
    return found


def test_quantile_examples_are_the_smallest_hashes_of_their_band(run):
    f, seen, sampled = run["f"], 0, 0
    rows = {(row["feature"], row["part"]): row for row in run["band"]}
    assert len(rows) == len(run["band"]) == 4 * sum(row["fires"] > 0 for row in run["feature"])
    for i in range(40):
        if not (f[:, i] > 0).any():
            continue
        for part, (low, members) in _literal_bands(run, i).items():
            assert (rows[i, part]["low"], rows[i, part]["fires"]) == (low, len(members))
            hashes, found = _by_hash(run, i, members), _examples(run, i, "quantile", part)
            assert len(found) == min(len(hashes), CONFIG.quantile)
            beyond = len(hashes) > CONFIG.quantile
            inclusion = hashes[CONFIG.quantile][0] / M if beyond else 1.0
            for e, (_, same) in zip(found, hashes, strict=False):
                assert _row(run, e) == _drawn(run["cache"], same) and e["copies"] == len(same)
                assert e["inclusion"] == pytest.approx(inclusion, rel=1e-12)
                assert e["max"] == f[_row(run, e), i]
            if not beyond:
                assert sum(e["copies"] for e in found) == len(members), "counted, not estimated"
            seen, sampled = seen + len(found), sampled + beyond
    assert seen > 100 and sampled > 40


def _drawn(cache, rows):
    """Which of the copies of a text stands for them: any is as likely."""
    return min(rows, key=lambda row: _tie(cache, row))


@pytest.mark.parametrize("kinds", [("active",), ("quantile",)])
def test_inclusion_probabilities_weigh_the_sample_up_to_the_whole(kinds, exact, lm):
    """Horvitz and Thompson: the sum of value copies / inclusion estimates a feature's total."""
    cache, sae = exact["separate"]
    f = sae.encode(torch.from_numpy(np.array(cache.x))).numpy().astype(np.float64)
    often = np.flatnonzero((f > 0).sum(0) > 40)
    estimates = []
    for seed in range(30):
        size = {kind: 6 if kind in kinds else 0 for kind in KINDS}
        _, tables, _ = _run(cache, sae, lm, HarvestConfig(**size, seed=seed))
        sums = np.zeros(40)
        for e in tables["example"]:
            sums[e["feature"]] += e["max"] * e["copies"] / e["inclusion"]
        estimates.append(sums[often].sum() / f[:, often].sum())
    assert len(often) > 5
    assert abs(np.mean(estimates) - 1) < 4 * np.std(estimates) / np.sqrt(30)
    assert np.std(estimates) < 0.4


def test_random_examples_are_a_uniform_sample_of_silent_tokens(exact, lm):
    cache, sae = exact["separate"]
    f = sae.encode(torch.from_numpy(np.array(cache.x))).numpy()
    silent = (f == 0).sum(0)
    drawn, estimates = np.zeros(cache.n_rows), []
    for seed in range(40):
        config = HarvestConfig(0, 0, 0, 0, 5, seed=seed)
        _, tables, _ = _run(cache, sae, lm, config)
        total = np.zeros(40)
        for e in tables["example"]:
            row = _row({"cache": cache}, e)
            assert f[row, e["feature"]] == 0 == e["max"] and e["act_index"] is not None
            drawn[row] += 1
            total[e["feature"]] += e["copies"] / e["inclusion"]
        estimates.append(total[silent > 50] / silent[silent > 50])
    means = np.mean(estimates, axis=0)
    assert abs(means.mean() - 1) < 4 * np.std(np.mean(estimates, axis=1)) / np.sqrt(40)
    assert (drawn > 0).mean() > 0.9, "every token has its turn"


def test_near_misses_lie_just_under_the_threshold(run):
    cache, f, pre = run["cache"], run["f"], run["pre"]
    theta = run["sae"].threshold.detach().numpy()
    some = 0
    for i in range(40):
        gap = theta[i] - pre[:, i]
        first = np.sort(gap[:1024][gap[:1024] >= 0])
        reach = first[1] if len(first) > 1 else -1.0
        best = {}
        for row in np.flatnonzero((gap >= 0) & (gap <= reach)):
            key = (float(gap[row]), _tie(cache, row, i) >> 32, _tie(cache, row, i), int(row))
            group = cache.documents[int(cache.doc[row])].min_hash
            best[group] = min(best.get(group, key), key)
        rows = [key[-1] for key in sorted(best.values())[:6]]
        found = _examples(run, i, "near_miss", "under")
        assert [_row(run, e) for e in found] == _once(cache, rows)[:2]
        for e in found:
            assert f[_row(run, e), i] == 0 == e["max"]
            assert e["pre"] == pytest.approx(pre[_row(run, e), i], abs=1e-7 * float(theta[i]))
            assert e["inclusion"] is None
        some += len(found)
    assert some > 40


def test_near_misses_share_a_token_with_the_top_examples(run):
    cache, f, some = run["cache"], run["f"], 0
    for i in range(40):
        token = lambda e: int(cache.ids[cache.context[r := _row(run, e)], cache.column[r]])  # noqa
        of_top = [token(e) for e in _examples(run, i, "top")]
        found = _examples(run, i, "near_miss", "token")
        for e in found:
            assert token(e) in of_top and f[_row(run, e), i] == 0 == e["max"]
            assert e["pre"] == run["pre"][_row(run, e), i] <= run["sae"].threshold[i].item()
        assert len({e["doc"] for e in found}) == len(found) <= 2
        some += len(found)
    assert some > 30


def test_no_text_appears_twice(run):
    for i in range(40):
        for kind in ("top", "active", "random"):
            texts = [_text(run["cache"], _row(run, e)) for e in _examples(run, i, kind)]
            assert len(texts) == len(set(texts))


def test_copies_of_a_document_count_and_are_shown_once(lm, tmp_path):
    """Ten copies of one text beside forty others: one example, ten copies."""
    texts = [*tiny.sentences(40, words=12), *[tiny.sentences(1, seed=9, words=12)[0]] * 10]
    cache = tiny.cache(tmp_path, lm, texts)
    sae = tiny.random_sae(cache.x, 6, share=0.3)
    _, tables, _ = _run(cache, sae, lm, HarvestConfig(20, 0, 10_000, 0, 0))
    copied = {d.doc for d in cache.documents[40:]}
    seen = 0
    for i in range(6):
        mine = [e for e in tables["example"] if e["feature"] == i]
        top = [e for e in mine if e["kind"] == "top" and e["doc"] in copied]
        assert len(top) <= 1
        again = [e for e in mine if e["kind"] == "active" and e["doc"] in copied]
        assert all(e["copies"] == 10 for e in again)
        seen += len(again)
        active = [e for e in mine if e["kind"] == "active"]
        assert sum(e["copies"] for e in active) == tables["feature"][i]["fires"]
    assert seen > 5


def test_peak_token_is_the_commonest_where_every_fire_was_kept(exact, lm):
    cache, sae = exact["separate"]
    _, tables, _ = _run(cache, sae, lm, HarvestConfig(0, 0, 10_000, 0, 0))
    f = sae.encode(torch.from_numpy(np.array(cache.x))).numpy()
    for i, row in enumerate(tables["feature"]):
        rows = np.flatnonzero(f[:, i] > 0)
        ids = cache.ids[cache.context[rows], cache.column[rows]].tolist()
        if ids:
            most = max(map(ids.count, ids))
            assert row["peak_token"] == min(t for t in ids if ids.count(t) == most)
            assert row["peak_share"] == pytest.approx(most / len(ids))
            assert row["single_token"] == (len(ids) >= 10 and most / len(ids) >= 0.9)


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
    for e in run["example"]:
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
    for e in tables["example"][::5]:
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
    for row, document, ids in zip(run["doc"], cache.documents, cache.document_ids, strict=True):
        assert row == {**vars(document), "ids": ids.tolist()}
    assert [t["id"] for t in run["token"]] == list(range(len(lm.tokenizer)))
    assert run["token"][0] == {"id": 0, "bytes": tiny.BOS.encode(), "special": True}


def test_the_store_gives_the_same_examples_back(run, tmp_path):
    made = run["run"]
    content = write_features(tmp_path / "features.duckdb", {"sae": "x"}, made.tables())
    root = open_root()
    store = FeatureStore(root, tmp_path / "features.duckdb")
    assert store.meta["content_hash"] == content and store.n_features == 40
    for feature in (0, 7, DEAD, ALWAYS):
        of = [(kind, part) for kind in KINDS for part in ("", *BANDS, *MISSES)]
        expected = [e for kind, part in of for e in _examples(run, feature, kind, part)]
        for e, want in zip(store.examples(feature), expected, strict=True):
            ids = run["cache"].document_ids[want["doc"]][want["start"] :][: want["length"]]
            assert e.ids == tuple(ids.tolist()) and e.values[e.peak] == e.max == want["max"]
            assert (e.kind, e.part, e.copies) == (want["kind"], want["part"], want["copies"])
            nonzero = {i: v for i, v in enumerate(e.values) if v}
            assert nonzero == dict(zip(want["act_index"], want["act_value"], strict=True))
    root.close()


# ---------------------------------------------------------------- what must not matter


def _same(one, two):
    """Whether two lists of rows are equal, sums of powers and what follows from them nearly."""
    near = {"total", "total_squares", "mean", "sd", "skew", "kurtosis"}
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        for name, value in a.items():
            if name in near and value is not None:
                assert b[name] == pytest.approx(value, rel=1e-12 if "to" in name else 1e-9), name
            else:
                assert b[name] == value, name


@pytest.mark.parametrize("which", ["separate", "packed"])
@pytest.mark.parametrize(("batch", "chunk"), [(37, 50), (5, 64), (10_000, 10_000), (64, 129)])
def test_batches_and_chunks_change_nothing(which, batch, chunk, exact, lm, monkeypatch):
    cache, sae = exact[which]
    before, old, _ = _run(cache, sae, lm)
    monkeypatch.setattr(harvest, "BATCH", batch)
    monkeypatch.setattr(harvest, "CHUNK", chunk)
    after, new, steps = _run(cache, sae, lm)
    assert len(steps) > 1
    assert after.l0.tolist() == before.l0.tolist()
    for name in old:
        _same(old[name], new[name])


@pytest.mark.parametrize("shards", [2, 4])
@pytest.mark.parametrize("block", [40, 17])
def test_shards_and_blocks_change_nothing(shards, block, exact, lm, monkeypatch, tmp_path):
    cache, sae = exact["separate"]
    monkeypatch.setattr(harvest, "BATCH", 64)
    _, old, _ = _run(cache, sae, lm)
    config = replace(CONFIG, shards=shards, block=block)
    run, new, _ = _run(cache, sae, lm, config, tmp_path)
    assert len(run._shards()) == shards
    for name in old:
        _same(old[name], new[name])


def test_every_digit_is_the_same_in_any_number_of_shards(cache, lm, monkeypatch, tmp_path):
    """Of numbers that round, sums of powers included, and so the content hash."""
    monkeypatch.setattr(harvest, "BATCH", 64)
    monkeypatch.setattr(harvest, "CHUNK", 100)
    sae, found = tiny.random_sae(cache.x, 40, share=0.3), set()
    for shards in (1, 2, 4):
        run = Harvest(sae, cache, lm, replace(CONFIG, shards=shards), _folder(tmp_path, shards))
        list(run)
        found.add(write_features(tmp_path / "features.duckdb", {}, run.tables()))
    assert len(found) == 1


def _folder(path, name):
    (path / str(name)).mkdir()
    return path / str(name)


def test_parts_of_a_corpus_merge_to_the_whole(exact, lm, monkeypatch):
    """As shards of several processes would: each from nothing, then added up in any order."""
    cache, sae = exact["separate"]
    monkeypatch.setattr(harvest, "BATCH", 64)
    corpus = Corpus(cache, CONFIG.seed)

    def part(*spans):
        block = harvest.Block(sae, corpus, CONFIG, 0, 40)
        for span in spans:
            list(block.read(*span))
        return block

    whole = part((0, cache.n_rows))
    spans = [(0, 128), (128, 256), (256, cache.n_rows)]
    merged = part()
    for span in (spans[2], spans[0], spans[1]):
        merged.merge(part(span).arrays())
    for name, value in whole.arrays().items():
        np.testing.assert_allclose(merged.arrays()[name], value, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_harvest_goes_on_where_it_was_stopped(stop_after, exact, lm, monkeypatch, tmp_path):
    cache, sae = exact["separate"]
    monkeypatch.setattr(harvest, "BATCH", 64)
    config = replace(CONFIG, shards=3, block=25)
    _, old, _ = _run(cache, sae, lm, config)
    first = iter(Harvest(sae, cache, lm, config, tmp_path))
    for _ in range(stop_after):
        next(first)
    again, new, steps = _run(cache, sae, lm, config, tmp_path)
    for name in old:
        _same(old[name], new[name])
    encoded = [step for step in steps if step.phase == "encode"]
    assert encoded[-1].done == 2 * cache.n_rows


def test_a_harvest_of_other_settings_is_not_taken_up(tmp_path):
    assert harvest.same_harvest(tmp_path, {"seed": 1})
    assert harvest.same_harvest(tmp_path, {"seed": 1})
    assert not harvest.same_harvest(tmp_path, {"seed": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["harvest.json"]


def test_the_seed_changes_the_samples_and_not_the_statistics(exact, lm):
    cache, sae = exact["separate"]
    _, one, _ = _run(cache, sae, lm, replace(CONFIG, seed=1))
    _, two, _ = _run(cache, sae, lm, replace(CONFIG, seed=2))
    for a, b in zip(one["feature"], two["feature"], strict=True):
        for name in ("fires", "total", "hist_counts"):
            assert a[name] == b[name]
    assert one["example"] != two["example"]
    assert _run(cache, sae, lm, replace(CONFIG, seed=1))[1] == one


def test_progress_reaches_its_end_in_both_phases(run):
    for phase in ("encode", "examples"):
        steps = [s for s in run["steps"] if s.phase == phase]
        done = [s.done for s in steps]
        assert done == sorted(done) and done[-1] == steps[-1].total


@pytest.mark.parametrize("name", KINDS)
def test_any_kind_can_be_left_out(name, exact, lm):
    cache, sae = exact["separate"]
    config = HarvestConfig(**{**dict.fromkeys(KINDS, 2), name: 0})
    _, tables, _ = _run(cache, sae, lm, config)
    assert {e["kind"] for e in tables["example"]} == set(KINDS) - {name}


def test_nothing_but_statistics(exact, lm):
    cache, sae = exact["separate"]
    _, tables, _ = _run(cache, sae, lm, HarvestConfig(**dict.fromkeys(KINDS, 0)))
    assert tables["example"] == [] and tables["feature"][0]["fires"] > 0


# ---------------------------------------------------------------- other architectures


@pytest.mark.parametrize("architecture", ["relu", "gated", "topk", "token_norm"])
def test_other_architectures_count_what_encode_gives(architecture, cache, lm, monkeypatch):
    monkeypatch.setattr(harvest, "BATCH", 50)
    sae = _other(architecture, cache)
    x = torch.from_numpy(np.array(cache.x))
    with torch.inference_mode():
        f = sae.encode(x).numpy()
    _, tables, _ = _run(cache, sae, lm)
    run = {"cache": cache}
    for i, row in enumerate(tables["feature"]):
        assert abs(row["fires"] - (f[:, i] > 0).sum()) <= 1, "but for rounding at the threshold"
        assert row["total"] == pytest.approx(f[:, i].sum(), rel=1e-4, abs=1e-3)
    kinds = set()
    for e in tables["example"]:
        at = _row(run, e)
        assert e["max"] == pytest.approx(f[at, e["feature"]], rel=1e-4, abs=1e-4)
        dense = np.zeros(e["length"])
        dense[e["act_index"]] = e["act_value"]
        rows = np.flatnonzero(cache.context == cache.context[at])
        where = cache.position[rows] - e["start"]
        np.testing.assert_allclose(dense[where], f[rows, e["feature"]], rtol=1e-4, atol=1e-3)
        kinds.add(e["kind"])
    assert kinds == set(KINDS)


def _other(architecture, cache):
    torch.manual_seed(0)
    d_in, n = cache.d_in, 24
    if architecture == "token_norm":
        sae = JumpReLUSAE(d_in, n, token_norm="layer_norm")
    else:
        more = {"k": 3} if architecture == "topk" else {}
        sae = MODELS[architecture](d_in, n, **more)
    with torch.no_grad():
        sae.W_enc.normal_()
        sae.W_dec.normal_()
        level = sae.pre(torch.from_numpy(np.array(cache.x))).quantile(0.9, dim=0) + 1e-3
        if architecture == "token_norm":
            sae.threshold.copy_(level)
        elif architecture == "gated":
            sae.b_enc.sub_(level)
            sae.r_mag.normal_(std=0.1)
            sae.b_mag.normal_(1.0, 1.0)
        else:
            sae.b_enc.sub_(level)
    return sae

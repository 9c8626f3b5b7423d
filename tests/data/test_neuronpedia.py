"""Records in Neuronpedia's columns, worked out by hand; and what its importer would choke on."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data import neuronpedia
from data.neuronpedia import FeaturePage, even_bars, source_of
from data.records import Example, Explanation, FeatureStats, LogitEffect

# apps/webapp/prisma/schema.prisma of hijohnnylin/neuronpedia: the columns that a file may name, and
# those without a default, which it must.
NEURON = set(
    "modelId layer index sourceSetName creatorId createdAt maxActApprox hasVector vector "
    "vectorLabel vectorDefaultSteerStrength hookName topkCosSimIndices topkCosSimValues "
    "neuron_alignment_indices neuron_alignment_values neuron_alignment_l1 "
    "correlated_neurons_indices correlated_neurons_pearson correlated_neurons_l1 "
    "correlated_features_indices correlated_features_pearson correlated_features_l1 neg_str "
    "neg_values pos_str pos_values frac_nonzero freq_hist_data_bar_heights "
    "freq_hist_data_bar_values logits_hist_data_bar_heights logits_hist_data_bar_values "
    "decoder_weights_dist".split()
)
ACTIVATION = set(
    "id tokens dataIndex index layer modelId dataSource maxValue maxValueTokenIndex minValue "
    "values dfaValues dfaTargetIndex dfaMaxValue creatorId createdAt lossValues "
    "logitContributions binMin binMax binContains qualifyingTokenIndex".split()
)
NEEDED = {"id", "tokens", "index", "layer", "modelId", "maxValue", "maxValueTokenIndex", "minValue",
          "values", "creatorId"}  # fmt: skip
EXPLANATION = {"id", "modelId", "layer", "index", "description", "authorId", "notes"}

PARTY = "🎉".encode()
TOKENS = {
    0: (b"<bos>", True), 1: (b" The", False), 2: (PARTY[:2], False), 3: (PARTY[2:], False),
    4: (b"\n", False), 5: (b"\x8e", False), 6: (b"\x00x", False), 7: ("é".encode(), False),
}  # fmt: skip
META = {
    "sae": "My SAE", "model": "roneneldan/TinyStories-1M", "site": "mlp_out.3", "text": "a:b",
    "context": 64, "tokens": 1000, "hist_edges": [1.0, 2.0, 4.0], "content_hash": "abc",
}  # fmt: skip
STATS = FeatureStats(
    feature=12, fires=8, density=0.008, total=16.0, total_squares=40.0, mean=2.0, sd=1.0, skew=None,
    kurtosis=None, max=5.0, q10=0.5, q50=1.5, q90=3.0, q99=4.5, quantile_error=0.06, theta=0.1,
    first_doc=0, last_doc=3, peak_token=1, peak_share=0.5, dead=False, rare=True, dense_1=False,
    dense_10=False, single_token=False, position_bound=False, outlier_bound=False,
    outlier_share=0.0, top_logit=1, hist_first=0, hist_counts=(1, 4, 2, 1), pre_counts=(),
    pre_unit=0.1, positions=(),
)  # fmt: skip
LOGITS = LogitEffect(
    12, True, (1, 7), (2.0, 1.0), (5, 4), (-1.0, -0.5), 0.5, 0.0, 3.0, -1.0, 3.0, (2, 3)
)


def example(kind="top", part="", rank=0, ids=(1, 2, 3, 4), values=(0.0, 1.5, 4.0, 0.5), peak=2):
    return Example(
        12, kind, part, rank, 7, "a.txt", "score", 30, peak, values[peak], values[peak], 1.0, 1,
        tuple(ids), tuple(values),
    )  # fmt: skip


# Of its 8 fires none is in the strongest hundredth.
BANDS = {"0.99-1": (5.25, 0), "0.9-0.99": (3.0, 1), "0.5-0.9": (1.5, 3), "0-0.5": (0.0, 4)}


def page(*examples, **changed) -> FeaturePage:
    return replace(FeaturePage(STATS, LOGITS, examples, None, BANDS), **changed)


def source(**meta):
    return source_of({**META, **meta}, TOKENS)


def test_the_address_is_one_that_neuronpedia_allows():
    at = source()
    assert (at.model, at.set, at.name) == ("tinystories-1m", "my-sae", "3-my-sae")
    assert at.hook == "blocks.3.hook_mlp_out"
    assert source(site="resid_post.0", model="/models/gpt2/").hook == "blocks.0.hook_resid_post"
    assert source(model="/models/gpt2/").model == "gpt2"
    assert source(site="attn_z.11").hook == "blocks.11.attn.hook_z"
    odd = source(site="hook:model.layers.5.mlp:output", sae="Ünï", model="…")
    assert (odd.name, odd.hook, odd.model) == ("5-n", None, "unnamed")
    assert source(site="hook:embed:output").name == "0-my-sae"


def test_bars_of_equal_width_by_hand():
    # 1 in [0, 1), 4 in [1, 2), 2 in [2, 4), 1 in [4, 5]: five bars of width 1.
    heights, values = even_bars([1.0, 2.0, 4.0], 0, (1, 4, 2, 1), 5.0, bars=5)
    assert heights == pytest.approx([1, 4, 1, 1, 1]) and values == [0.5, 1.5, 2.5, 3.5, 4.5]
    # A bin that is cut by the maximum ends there; one that begins at it is in the last bar.
    assert even_bars([1.0, 2.0, 4.0], 1, (4, 2), 3.0, bars=3)[0] == pytest.approx([0, 4, 2])
    assert even_bars([1.0, 2.0, 4.0], 2, (3, 1), 4.0, bars=4)[0] == pytest.approx([0, 0, 1.5, 2.5])
    assert even_bars([1.0, 2.0], 0, (), 0.0) == ([], [])


@pytest.mark.parametrize("seed", range(5))
def test_bars_keep_the_number_of_fires(seed):
    rng = np.random.default_rng(seed)
    edges = np.cumsum(rng.uniform(0.1, 2, 12))
    values = rng.lognormal(0.5, 1, 200)
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=13)
    first, last = np.flatnonzero(counts)[[0, -1]]
    heights, middles = even_bars(edges, int(first), counts[first : last + 1], float(values.max()))
    assert sum(heights) == pytest.approx(200) and min(heights) > -1e-9
    assert len(heights) == len(middles) == 50
    step = middles[1] - middles[0]
    for edge in edges[edges < values.max()]:  # below a stored edge nothing was guessed
        whole = sum(h for h, m in zip(heights, middles, strict=True) if m + step / 2 <= edge)
        assert whole <= (values < edge).sum() + 1e-6


def test_a_feature_by_hand():
    record = neuronpedia.feature_record(source(), page())
    assert set(record) <= NEURON
    place = {"modelId": "tinystories-1m", "layer": "3-my-sae", "index": "12"}
    assert place.items() <= record.items() and record["sourceSetName"] == "my-sae"
    assert record["frac_nonzero"] == 0.008 and record["maxActApprox"] == 5.0
    assert (record["pos_str"], record["pos_values"]) == ([" The", "é"], [2.0, 1.0])
    assert (record["neg_str"], record["neg_values"]) == (["\\x8e", "\n"], [-1.0, -0.5])
    assert record["logits_hist_data_bar_heights"] == [2, 3]
    assert record["logits_hist_data_bar_values"] == [0.0, 2.0], "middles of [-1, 1) and [1, 3)"
    # Their page indexes one list by the other (a fault that broke other people's exports).
    assert len(record["freq_hist_data_bar_heights"]) == len(record["freq_hist_data_bar_values"])
    assert sum(record["freq_hist_data_bar_heights"]) == pytest.approx(8, rel=1e-4)


def test_a_dead_feature_without_logits():
    dead = replace(STATS, fires=0, density=0.0, max=None, hist_counts=(), dead=True)
    record = neuronpedia.feature_record(source(), page(stats=dead, logits=None))
    assert record["maxActApprox"] == 0.0 and record["freq_hist_data_bar_heights"] == []
    assert record["pos_str"] == record["logits_hist_data_bar_values"] == []
    assert set(record) == set(neuronpedia.feature_record(source(), page())), "the same columns"


def test_an_activation_by_hand():
    (record,) = neuronpedia.activation_records(source(), page(example()))
    assert NEEDED <= set(record) <= ACTIVATION
    assert record["tokens"] == [" The", "🎉", "\n"], "two tokens share the emoji"
    assert record["values"] == [0, 4.0, 0.5] and len(record["values"]) == len(record["tokens"])
    assert (record["maxValue"], record["minValue"]) == (4.0, 0.0)
    assert record["maxValueTokenIndex"] == record["qualifyingTokenIndex"] == 1
    assert (record["binMin"], record["binMax"], record["binContains"]) == (-1.0, 5.0, -1.0)
    assert record["dataIndex"] == "a.txt:30"


def test_intervals_are_ranks_and_the_sampled_token_is_told_from_the_largest():
    drawn = example("quantile", "0.5-0.9", ids=(1, 4, 1), values=(2.0, 0.0, 4.75), peak=0)
    (record,) = neuronpedia.activation_records(source(), page(drawn))
    assert (record["binMin"], record["binMax"]) == (1.5, 3.0)
    assert record["binContains"] == pytest.approx(3 / 8 * 0.008), "a share of all tokens"
    assert (record["maxValueTokenIndex"], record["qualifyingTokenIndex"]) == (2, 0)
    bounds, shares = [], []
    for part in list(BANDS)[1:]:
        (record,) = neuronpedia.activation_records(source(), page(example("quantile", part)))
        bounds.append((record["binMin"], record["binMax"]))
        shares.append(record["binContains"])
    assert bounds == [(3.0, 5.0), (1.5, 3.0), (0.0, 1.5)]
    assert sum(shares) == pytest.approx(STATS.density)


def test_kinds_it_has_no_place_for_are_left_out():
    others = [example("active"), example("random"), example("near_miss", "under")]
    assert neuronpedia.activation_records(source(), page(*others)) == []


def test_nothing_that_postgres_refuses():
    odd = example(ids=(0, 5, 6, 2, 7), values=(0.0, 1.0, 2.0, 3.0, 0.0), peak=3)
    (record,) = neuronpedia.activation_records(source(), page(odd))
    assert record["tokens"] == ["<bos>", "\\x8e", "\\x00x", "\\xf0\\x9f", "é"]
    told = Explanation(12, "gemini", "a \x00 byte \udc8e", {})
    record = neuronpedia.explanation_record(source(), page(explanation=told))
    assert record["description"] == "a \\x00 byte \\x8e" and set(record) == EXPLANATION
    for refused in (None, replace(told, status="failed", reason="no answer")):
        assert neuronpedia.explanation_record(source(), page(explanation=refused)) is None


def test_ids_name_rows_and_are_the_same_at_each_export():
    made = [example(rank=0), example(rank=1), example("quantile", "0-0.5")]
    ids = [r["id"] for r in neuronpedia.activation_records(source(), page(*made))]
    assert len(set(ids)) == 3 and all(len(i) == 25 and i[0] == "c" for i in ids)
    again = [r["id"] for r in neuronpedia.activation_records(source(), page(*made))]
    other = [r["id"] for r in neuronpedia.activation_records(source(content_hash="d"), page(*made))]
    assert again == ids and not set(other) & set(ids)


def _lines(path: Path) -> list[dict]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    # As their importer reads it: trimmed, split at line ends, the first line's keys for all.
    rows = [json.loads(line) for line in raw.decode().strip().split("\n")]
    assert all(set(row) == set(rows[0]) for row in rows)
    assert b"\\u0000" not in raw
    return rows


def test_the_folder_is_the_one_the_importer_reads(tmp_path):
    told = Explanation(12, "lexical", "words", {})
    some = page(example(), example(rank=1), explanation=told)
    where = neuronpedia.write_source(tmp_path, source())
    neuronpedia.write_batch(where, 0, source(), [some, page()])
    assert where == tmp_path / "tinystories-1m/3-my-sae"
    files = sorted(str(p.relative_to(where)) for p in where.rglob("*") if p.is_file())
    assert files == [
        "activations/batch-0.jsonl.gz", "explanations/batch-0.jsonl.gz",
        "features/batch-0.jsonl.gz", "model.jsonl", "release.jsonl", "source.jsonl",
        "sourceset.jsonl",
    ]  # fmt: skip
    counts = [len(_lines(where / name)) for name in files]
    assert counts == [2, 1, 2, 1, 1, 1, 1]
    (model,), (release,), (own,), (group,) = (_lines(where / name) for name in files[3:])
    assert own["modelId"] == group["modelId"] == model["id"] == "tinystories-1m"
    assert own["setName"] == group["name"] and group["releaseName"] == release["name"]
    assert (own["id"], own["dataset"], own["num_tokens_in_prompt"]) == ("3-my-sae", "a:b", 64)
    before = (where / files[0]).read_bytes()
    neuronpedia.write_batch(where, 0, source(), [some, page()])
    assert (where / files[0]).read_bytes() == before, "the same bytes each time"


def test_a_site_with_nothing_to_say_writes_no_empty_files(tmp_path):
    where = neuronpedia.write_source(tmp_path, source())
    neuronpedia.write_batch(where, 3, source(), [page()])
    assert [p.name for p in where.rglob("*.gz")] == ["batch-3.jsonl.gz"]
    assert not (where / "activations").exists() and not (where / "explanations").exists()

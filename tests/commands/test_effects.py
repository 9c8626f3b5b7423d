"""`effects` through the door: what it measures, keeps, tells and refuses; the store it writes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

import run
from data import schema
from data.effects_store import EffectsStore, newest_of, stretches, write_effects
from data.errors import StoreError
from data.records import CausalScore, Stretch
from interp.ablation import Ablation
from interp.causal import feature_effect
from interp.engine import open_engine
from tests.commands import untrained
from tests.data import handmade

N_DOCS, ROOM = 30, 15  # documents; tokens of a context after BOS
DEAD, ALWAYS = 30, 31  # features of the untrained SAE


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """An untrained SAE with a store of examples that are its own: top, active, near misses, and
    random ones that are silent."""
    workspace = untrained.workspace(tmp_path_factory.mktemp("effects"), {"one": "resid_post.1"})
    _harvest(workspace)
    return workspace


def _harvest(workspace, **changes):
    folder = workspace.sae("one")
    engine = open_engine(folder, "cpu")
    weights = (folder / "sae_weights.safetensors").read_bytes()
    meta = {
        "sae": "one", "lm_weights": engine.lm.fingerprint, "site": engine.site,
        "weights_sha256": hashlib.sha256(weights).hexdigest(), **changes,
    }  # fmt: skip
    handmade.write(folder / "features.duckdb", _tables(engine), meta)


def _tables(engine):
    lines = (Path(engine.lm.name).parent / "text.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines[:N_DOCS]]
    docs = engine.lm.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    # Examples lie in the second context of their document where it has one.
    starts = [ROOM if len(ids) > ROOM + 5 else 0 for ids in docs]
    found = []
    for ids, start in zip(docs, starts, strict=True):
        context = [0, *ids[start : start + ROOM]]
        x = engine.lm.capture(torch.tensor([context]), [engine.site])[engine.site][0]
        found.append(engine.sae.encode(x)[1:].numpy())  # [tokens, features]
    examples = []
    for feature in range(engine.sae.d_sae):
        peaks = [float(f[:, feature].max()) for f in found]
        order = np.argsort(peaks)[::-1]
        fired = [doc for doc in order if peaks[doc] > 0]
        silent = [doc for doc in order if peaks[doc] == 0]
        chosen = [("top", "", rank, doc) for rank, doc in enumerate(fired[:4])]
        chosen += [("active", "", rank, doc) for rank, doc in enumerate(fired[-3:])]
        bands = zip(("0-0.5", "0.5-0.9"), fired, strict=False)
        chosen += [("quantile", part, 0, doc) for part, doc in bands]
        chosen += [("random", "", rank, doc) for rank, doc in enumerate(silent[:2])]
        for kind, part, rank, doc in chosen:
            values = found[doc][:, feature]
            examples.append({
                "feature": feature, "kind": kind, "part": part, "rank": rank, "doc": int(doc),
                "start": starts[doc], "length": len(values), "peak": int(values.argmax()),
                "max": float(values.max()), "pre": 0.0, "inclusion": 1.0, "copies": 1,
                "act_index": np.flatnonzero(values).tolist(),
                "act_value": values[values > 0].tolist(),
            })  # fmt: skip
    rows = handmade.rows()
    names = ("name", "split", "use", "min_hash")
    about = {name: rows["doc"][0][name] for name in names}
    return {
        "token": rows["token"],
        "doc": [
            {**about, "doc": i, "n_tokens": len(ids), "ids": ids} for i, ids in enumerate(docs)
        ],
        "feature": [{**rows["feature"][1], "feature": i} for i in range(engine.sae.d_sae)],
        "logit": [],
        "example": examples,
    }


def _run(workspace, words, capsys):
    capsys.readouterr()
    code = run.main(["effects", *words.split(), "--workspace", str(workspace.root)])
    told = capsys.readouterr()
    return code, told.out, told.err


def _open(workspace) -> EffectsStore:
    return EffectsStore(schema.open_root(), workspace.extra("one", "effects")[0])


# ---------------------------------------------------------------- what it writes


def test_every_number_is_ablations_own(workspace, capsys):
    words = "one --per-feature 2 --kinds top,random --seed 5 --batch 3"
    code, out, _ = _run(workspace, words, capsys)
    assert code == 0
    store, engine = _open(workspace), open_engine(workspace.sae("one"), "cpu")
    ablation = Ablation(engine.lm, engine.sae, engine.site, engine.prefix, engine.mask, seed=5)
    features = workspace.feature_store("one")
    statuses = set()
    for feature in (0, 7, DEAD, ALWAYS):
        chosen = stretches(schema.open_root(), features, range(feature, feature + 1),
                           ("top", "random"), 2)  # fmt: skip
        expected, found = ablation.measure(chosen), store.examples(feature)
        assert len(found) == len(expected) == len(chosen)
        for one, other in zip(found, expected, strict=True):
            for field in dataclasses.fields(one):
                mine, theirs = getattr(one, field.name), getattr(other, field.name)
                if isinstance(theirs, (float, tuple)):
                    assert np.allclose(mine, theirs, rtol=1e-3, atol=1e-6), field.name
                else:
                    assert mine == theirs, field.name
            statuses.add(one.status)
        means = feature_effect(feature, found)
        kept = store.feature(feature)
        for field in dataclasses.fields(means):
            mine = getattr(kept, field.name)
            assert mine == getattr(means, field.name) or mine == pytest.approx(
                getattr(means, field.name)
            )
    assert statuses == {"ok", "silent"}
    assert store.feature(DEAD).status == "silent" and store.feature(DEAD).kl is None
    score = store.causal
    ok = [f for f in store.features() if f.status == "ok"]
    assert (score.features, score.measured) == (32, len(ok)) and len(ok) > 25
    assert score.exceeding == sum(f.kl > f.random_kl for f in ok)
    assert score.low <= score.share <= score.high and score.pearson > 0.5
    for key in ("measured", "causal", "kl", "random_kl", "delta_loss", "pearson", "spearman"):
        assert sum(line.split()[0] == key for line in out.splitlines()) == 1, key
    assert f"{score.measured} of 32 features" in out and "ms an example" in out


def test_it_says_what_it_was_made_from(workspace, capsys):
    _run(workspace, "one --features 3:5", capsys)
    store = _open(workspace)
    meta = store.meta
    weights = (workspace.sae("one") / "sae_weights.safetensors").read_bytes()
    assert meta["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert meta["arguments"] == {
        "features": "3:5", "per_feature": 5, "kinds": "top", "seed": 0,
    }  # fmt: skip
    assert {"features_content", "lm_weights", "site", "versions", "device", "wall_s"} <= set(meta)
    assert [f.feature for f in store.features()] == [3, 4]
    assert {e.kind for e in store.examples(3)} == {"top"} and len(store.examples(3)) == 4
    assert store.feature(5) is None and store.examples(5) == []


def test_a_feature_without_examples_of_the_kind_says_so(workspace, capsys):
    code, out, _ = _run(workspace, f"one --features {DEAD} --kinds active", capsys)
    effect = _open(workspace).feature(DEAD)
    assert code == 0 and (effect.status, effect.n_examples) == ("no_examples", 0)
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "absent" in lines["causal"] and "0 of 1 features" in lines["measured"]


def test_again_it_tells_what_it_kept_and_replace_gives_the_same_content(workspace, capsys):
    words = "one --features 0:6 --per-feature 1"
    _, first, _ = _run(workspace, words, capsys)
    path = workspace.extra("one", "effects")[0]
    content, made = _open(workspace).meta["content_hash"], path.stat().st_mtime_ns
    code, out, _ = _run(workspace, words, capsys)
    assert code == 0 and "was measured before" in out and path.stat().st_mtime_ns == made
    numbers = [line for line in first.splitlines() if not line.startswith("wrote")]
    assert out.splitlines()[1:] == numbers
    code, out, _ = _run(workspace, words + " --replace", capsys)
    assert code == 0 and path.stat().st_mtime_ns != made and "wrote" in out
    assert _open(workspace).meta["content_hash"] == content
    assert [p for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_a_file_that_cannot_be_read_is_measured_anew(workspace, capsys):
    words = "one --features 0:6 --per-feature 1"
    _run(workspace, words, capsys)
    path = workspace.extra("one", "effects")[0]
    content = _open(workspace).meta["content_hash"]
    os.truncate(path, 5000)
    code, out, _ = _run(workspace, words, capsys)
    assert code == 0 and "wrote" in out
    assert workspace.extra("one", "effects")[0] == path
    assert _open(workspace).meta["content_hash"] == content


def test_a_full_disk_ends_it_in_one_sentence(workspace, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        code, _, told = _run(workspace, "one --features 0:6 --seed 77", capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    last = told.splitlines()[-1]
    assert code == 2 and last.startswith("StoreError: ") and "free some space" in last
    extra = workspace.sae("one") / "extra"
    assert [p for p in extra.iterdir() if p.name.startswith(".")] == []


def test_the_batch_moves_the_last_digits_only(workspace, capsys):
    scores = []
    for batch in (1, 7):
        words = f"one --features 0:10 --per-feature 2 --batch {batch} --replace"
        _run(workspace, words, capsys)
        scores.append(_open(workspace).causal)
    for name in (field.name for field in dataclasses.fields(CausalScore)):
        assert getattr(scores[0], name) == pytest.approx(getattr(scores[1], name), rel=1e-3)


# ---------------------------------------------------------------- the examples chosen


def test_examples_are_read_with_their_own_context(workspace):
    root, path = schema.open_root(), workspace.feature_store("one")
    found = stretches(root, path, range(2, 4), ("active", "top"), 3)
    keys = [(s.feature, s.kind, s.part, s.rank) for s in found]
    assert keys == sorted(keys) and {s.kind for s in found} == {"active", "top"}
    assert {s.rank for s in found if s.kind == "top"} == {0, 1, 2}
    with root.reading(path) as (cursor, store):
        docs = dict(cursor.execute(f"SELECT doc, ids FROM {store}.doc").fetchall())
    assert any(s.start > 0 for s in found)
    for s in found:
        assert isinstance(s, Stretch) and s.peak < len(s.ids) <= ROOM
        assert list(s.ids) == docs[s.doc][s.start : s.start + ROOM]


def test_the_parts_of_a_kind_take_turns(workspace):
    root, path = schema.open_root(), workspace.feature_store("one")
    for n, parts in [(1, {"0-0.5"}), (2, {"0-0.5", "0.5-0.9"})]:
        found = stretches(root, path, [0], ("quantile",), n)
        assert {s.part for s in found} == parts and len(found) == n
    assert stretches(root, path, range(0), ("top",), 5) == []


def test_only_effects_of_this_harvest_are_found(workspace, capsys, tmp_path):
    _run(workspace, "one --features 0:2", capsys)
    root, paths = schema.open_root(), workspace.extra("one", "effects")
    content = _open(workspace).meta["features_content"]
    assert newest_of(root, paths, content) == paths[0]
    assert newest_of(root, paths, "another") is None and newest_of(root, [], content) is None
    damaged = tmp_path / "effects-damaged.duckdb"
    damaged.write_bytes(b"no store")
    assert newest_of(root, [damaged, *paths], content) == paths[0]


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def blocks():
        yield [], [feature_effect(0, [])]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_effects(tmp_path / "effects-x.duckdb", blocks(), dict)
    assert list(tmp_path.iterdir()) == []


def test_an_effects_store_is_no_features_store_and_a_missing_one_is_told(workspace, tmp_path):
    with pytest.raises(StoreError, match="no store at"):
        EffectsStore(schema.open_root(), tmp_path / "none.duckdb").features()


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("nobody", "no SAE 'nobody'"),
        ("one --features 32", "this SAE has features 0 to 31, and '32' is not"),
        ("one --per-feature 0", "--per-feature 0: give 1 or more"),
        ("one --kinds top,best", "no examples of kind 'best': choose from top, quantile"),
        ("one --features 0 --seed 3 --batch 0", "--batch 0: give 1 or more"),
        ("one --seed -1", "--seed -1"),
    ],
)
def test_what_is_refused(words, says, workspace, capsys):
    code, out, err = _run(workspace, words, capsys)
    assert code == 2 and out == "" and says in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights_sha256": "0" * 64}, "was made from other weights (000000000000)"),
        ({"lm_weights": "another"}, "was harvested with lm_weights 'another', one has"),
        ({"site": "resid_post.0"}, "was harvested with site 'resid_post.0', one has"),
    ],
)
def test_a_store_of_another_sae_or_model_is_refused(changes, says, capsys, tmp_path):
    workspace = untrained.workspace(tmp_path, {"one": "resid_post.1"})
    code, _, err = _run(workspace, "one", capsys)
    assert code == 2 and "run: python run.py harvest one" in err
    _harvest(workspace, **changes)
    code, out, err = _run(workspace, "one", capsys)
    assert code == 2 and out == "" and says in err and len(err.splitlines()) == 1
    assert workspace.extra("one", "effects") == []

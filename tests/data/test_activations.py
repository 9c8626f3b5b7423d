"""The cache against the model itself; its damage and its name; the exactly-once shuffled rows."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from data import activations
from data.activations import (
    ActivationCache,
    ActivationSpec,
    ShuffledRows,
    build_cache,
    build_caches,
    source_fingerprint,
)
from data.errors import ModelError, SiteError, TextError, WorkspaceError
from data.tokens import ContextRule
from tests import tiny

TEXTS = tiny.sentences(80, words=12)
LOUD = tiny.tokenizer().convert_tokens_to_ids(":")  # its embedding is made enormous


@pytest.fixture(scope="module")
def lm():
    return tiny.language_model("llama")


@pytest.fixture(scope="module")
def cache(lm, tmp_path_factory):
    return tiny.cache(tmp_path_factory.mktemp("cache"), lm, TEXTS)


@pytest.fixture(scope="module")
def packed(lm, tmp_path_factory):
    return tiny.cache(tmp_path_factory.mktemp("packed"), lm, TEXTS, pack=True)


# ---------------------------------------------------------------- what is in it


@pytest.mark.parametrize("which", ["cache", "packed"])
def test_rows_are_the_models_activations_where_they_say(which, lm, request):
    cache = request.getfixturevalue(which)
    ids = torch.from_numpy(np.array(cache.ids)).long()
    x = lm.capture(ids, ["resid_post.1"])["resid_post.1"].numpy()
    np.testing.assert_allclose(cache.x, x[cache.context, cache.column], rtol=1e-4, atol=1e-5)
    for row in range(0, cache.n_rows, 7):
        token = cache.ids[cache.context[row], cache.column[row]]
        assert token == cache.document_ids[cache.doc[row]][cache.position[row]]


@pytest.mark.parametrize("which", ["cache", "packed"])
def test_every_ordinary_token_has_one_row(which, request):
    cache = request.getfixturevalue(which)
    where = set(zip(cache.doc.tolist(), cache.position.tolist(), strict=True))
    assert len(where) == cache.n_rows == sum(d.n_tokens for d in cache.documents)
    assert [len(ids) for ids in cache.document_ids] == [d.n_tokens for d in cache.documents]
    assert cache.manifest["high_norm"] == 0 and cache.mask.prefix == 1
    assert np.array_equal(
        cache.context_rows, [np.sum(cache.context < c) for c in range(len(cache.ids) + 1)]
    )


def test_tokens_of_enormous_norm_are_left_out_and_counted(tmp_path):
    lm = tiny.language_model("llama")
    lm.model.model.embed_tokens.weight[LOUD] *= 1e4
    cache = tiny.cache(tmp_path, lm, TEXTS, site="resid_post.0", batch=8)
    ids = np.array(cache.ids)
    x = lm.capture(torch.from_numpy(ids).long(), ["resid_post.0"])["resid_post.0"]
    norms = x.norm(dim=-1).numpy()
    ordinary = (ids > 2) & (np.arange(16) > 0)
    limit = 10 * np.median(norms[:8][ordinary[:8]])
    loud = ordinary & (norms > limit)
    assert (ids[loud] == LOUD).all() and loud.sum() == (ids[ordinary] == LOUD).sum() > 10
    assert cache.manifest["high_norm"] == loud.sum()
    assert cache.n_rows == ordinary.sum() - loud.sum()
    assert cache.mask.norm_limit == pytest.approx(limit, rel=1e-5)
    assert np.linalg.norm(cache.x, axis=1).max() <= cache.mask.norm_limit


@pytest.mark.parametrize("which", ["cache", "packed"])
@pytest.mark.parametrize(
    "wanted",
    [
        {"split": "heldout"},
        {"split": "train"},
        {"split": "train", "use": "calibrate"},
        {"split": "train", "not_use": "calibrate"},
    ],
)
def test_contexts_are_chosen_by_all_of_their_documents(which, wanted, request):
    cache = request.getfixturevalue(which)
    expected = []
    for context in range(len(cache.ids)):
        docs = [cache.documents[d] for d in set(cache.doc[cache.context == context].tolist())]
        good = [
            d.split == wanted["split"]
            and d.use == wanted.get("use", d.use)
            and d.use != wanted.get("not_use")
            for d in docs
        ]
        if good and all(good):
            expected.append(context)
    found = cache.contexts_where(**wanted)
    assert found.tolist() == expected
    assert expected or which == "packed"
    rows = cache.rows_of(found[::-1])
    brute = [r for c in found[::-1] for r in np.flatnonzero(cache.context == c)]
    assert rows.tolist() == brute


def test_the_build_tells_its_progress(lm, tmp_path):
    source = tiny.write_jsonl(tmp_path / "text.jsonl", TEXTS)
    spec = ActivationSpec("tiny", "mlp_out.0", str(source), tokens=500, rule=ContextRule(16))
    steps = list(build_cache(tmp_path, lm, spec, batch=8))
    tokens = [step.tokens for step in steps]
    assert tokens == sorted(tokens) and len(steps) > 3 and tokens[-2] < 500 <= tokens[-1]
    assert {step.total for step in steps} == {500}
    assert ActivationCache(tmp_path).n_rows == tokens[-1]


def test_what_cannot_be_built_is_refused(lm, tmp_path):
    source = tiny.write_jsonl(tmp_path / "text.jsonl", TEXTS)
    spec = ActivationSpec("tiny", "resid_post.0", str(source), tokens=100, rule=ContextRule(16))
    cases = [
        ({"site": "resid_post.9"}, SiteError, "0 to 2"),
        ({"rule": ContextRule(65)}, TextError, "longer than this model's 64 tokens"),
        ({"text": str(tmp_path / "none")}, TextError, "no text at"),
        ({"text_field": "body"}, TextError, "no text field 'body'"),
    ]
    for change, error, says in cases:
        with pytest.raises(error, match=says):
            list(build_cache(tmp_path, lm, dataclasses.replace(spec, **change)))
    only_special = tiny.write_jsonl(tmp_path / "special.jsonl", [tiny.EOS * 5])
    with pytest.raises(TextError, match="no token of .* is left after the masks"):
        list(build_cache(tmp_path, lm, dataclasses.replace(spec, text=str(only_special))))


def test_activations_that_are_not_finite_are_refused(tmp_path):
    lm = tiny.language_model("llama")
    lm.model.model.embed_tokens.weight[LOUD] = float("nan")
    with pytest.raises(ModelError, match="not finite: use --dtype float32"):
        tiny.cache(tmp_path, lm, TEXTS)


# ---------------------------------------------------------------- several sites in one pass


SITES = ["resid_post.2", "attn_z.1", "mlp_out.0", "resid_post.0"]


def _spec(source, tokens=10**9, pack=False):
    rule = ContextRule(16, pack)
    return ActivationSpec("tiny", "not looked at", str(source), "text", tokens, rule)


def _together(folder, lm, spec, sites, batch=8):
    """Folders of `sites` out of one build, and its steps."""
    folders = {site: folder / str(number) for number, site in enumerate(sites)}
    for made in folders.values():
        made.mkdir(parents=True)
    return folders, list(build_caches(folders, lm, spec, batch))


def _apart(folder, lm, spec, site, batch=8):
    folder.mkdir()
    for _ in build_cache(folder, lm, dataclasses.replace(spec, site=site), batch):
        pass
    return folder


def _bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_sites_built_together_are_byte_for_byte_those_built_apart(family, pack, tmp_path):
    lm = tiny.language_model(family)
    lm.model.get_input_embeddings().weight[LOUD] *= 1e4  # loud in the stream, not in attn_z
    source = tiny.write_jsonl(tmp_path / "text.jsonl", TEXTS)
    spec = _spec(source, pack=pack)
    folders, _ = _together(tmp_path / "together", lm, spec, SITES)
    for number, (site, folder) in enumerate(folders.items()):
        alone = _bytes(_apart(tmp_path / f"apart {number}", lm, spec, site))
        assert len(alone) == 6 and _bytes(folder) == alone, site
    caches = {site: ActivationCache(folder) for site, folder in folders.items()}
    assert len({cache.mask.norm_limit for cache in caches.values()}) == len(SITES)
    assert caches["resid_post.0"].n_rows < caches["attn_z.1"].n_rows, "each masks by its own norms"
    assert [cache.manifest["spec"]["site"] for cache in caches.values()] == SITES


def test_one_pass_of_the_model_serves_all_sites(lm, tmp_path, monkeypatch):
    capture, asked = lm.capture, []

    def counted(ids, sites):
        asked.append((len(ids), list(sites)))
        return capture(ids, sites)

    monkeypatch.setattr(lm, "capture", counted)
    spec = _spec(tiny.write_jsonl(tmp_path / "text.jsonl", TEXTS))
    folders, steps = _together(tmp_path / "together", lm, spec, SITES)
    n_contexts = len(ActivationCache(folders["attn_z.1"]).ids)
    assert {tuple(sites) for _, sites in asked} == {tuple(SITES)}
    assert sum(n for n, _ in asked) == n_contexts and len(asked) == len(steps) == -(
        -n_contexts // 8
    )


def test_progress_of_several_sites_is_that_of_the_one_that_keeps_fewest(tmp_path):
    lm = tiny.language_model("llama")
    lm.model.get_input_embeddings().weight[LOUD] *= 1e4
    spec = _spec(tiny.write_jsonl(tmp_path / "text.jsonl", TEXTS), tokens=900)
    folders, steps = _together(tmp_path / "together", lm, spec, ["attn_z.1", "resid_post.0"])
    kept = [ActivationCache(folder).n_rows for folder in folders.values()]
    assert steps[-1].tokens == min(kept) == kept[1] < kept[0] and steps[-1].total == 900


def test_one_bad_site_of_several_is_refused_by_name(tmp_path):
    lm = tiny.language_model("llama")
    spec = _spec(tiny.write_jsonl(tmp_path / "text.jsonl", TEXTS))
    with pytest.raises(SiteError, match="no layer 9"):
        _together(tmp_path / "layer", lm, spec, ["resid_post.0", "resid_post.9"])
    assert not any((tmp_path / "layer" / "0").iterdir()), "before any work"
    lm.model.model.layers[2].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="activations at resid_post.2 of .* are not finite"):
        _together(tmp_path / "nan", lm, spec, ["resid_post.1", "resid_post.2"])


# ---------------------------------------------------------------- whole or not at all


def test_an_interrupted_build_leaves_nothing(lm, tmp_path, workspace):
    source = tiny.write_jsonl(tmp_path / "text.jsonl", TEXTS)
    spec = ActivationSpec("tiny", "resid_post.0", str(source), tokens=10**6, rule=ContextRule(16))
    key = spec.key(lm)
    with pytest.raises(KeyboardInterrupt), workspace.new_activations(key) as part:
        for number, _ in enumerate(build_cache(part, lm, spec, batch=4)):
            assert (part / "activations.f32").exists()
            if number == 3:
                raise KeyboardInterrupt
    assert not workspace.activations(key).exists()
    assert list((workspace.root / "activations").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "activations.f32",
        "rows.i32",
        "ids.i32",
        "document_ids.i32",
        "documents.json",
        "manifest.json",
    ],
)
@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_a_damaged_cache_is_refused_and_says_what_to_remove(name, damage, lm, tmp_path):
    tiny.cache(tmp_path, lm, TEXTS[:10])
    file = tmp_path / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(WorkspaceError, match=f"remove.*{tmp_path.name}|{tmp_path.name}.*remove"):
        cache = ActivationCache(tmp_path)
        _ = cache.documents, cache.document_ids


def test_the_name_follows_everything_that_decides_the_values(lm, tmp_path):
    source = tiny.write_jsonl(tmp_path / "text.jsonl", TEXTS)
    spec = ActivationSpec("tiny", "resid_post.0", str(source), "text", 100, ContextRule(16))
    changes = [
        {"lm": "other"},
        {"site": "resid_post.1"},
        {"text_field": "body"},
        {"tokens": 101},
        {"dtype": "bfloat16"},
        *({"rule": ContextRule(**{"context": 16, **r})} for r in (
            {"context": 17}, {"pack": True}, {"chat": True}, {"skip_first": 1},
        )),
    ]  # fmt: skip
    names = [spec.key(lm), *(dataclasses.replace(spec, **change).key(lm) for change in changes)]
    names.append(spec.key(dataclasses.replace(lm, fingerprint="other weights")))
    source.write_text(source.read_text() + "\n")
    names.append(spec.key(lm))
    assert len(set(names)) == len(names) == len(changes) + 3
    assert names[-1] == spec.key(lm) and len(names[0]) == 16


def test_the_fingerprint_of_a_folder_sees_its_texts_and_nothing_else(tmp_path):
    tiny.write_texts(tmp_path / "texts", TEXTS[:3])
    before = source_fingerprint(str(tmp_path / "texts"))
    (tmp_path / "texts" / "cache.bin").write_bytes(b"1")
    assert source_fingerprint(str(tmp_path / "texts")) == before
    (tmp_path / "texts" / "new.txt").write_text("more")
    assert source_fingerprint(str(tmp_path / "texts")) != before
    three = [source_fingerprint(s) for s in ("python:stdlib", "python:installed", "hf:a/b")]
    assert len({*three, before}) == 4


def test_the_manifest_says_how_it_was_made(cache, lm):
    manifest = json.loads((cache.folder / "manifest.json").read_text())
    assert manifest["spec"]["site"] == "resid_post.1" and manifest["weights"] == lm.fingerprint
    assert (manifest["n_rows"], manifest["d_in"]) == cache.x.shape
    assert manifest["n_documents"] == len(TEXTS) and manifest["mask"]["special"] == [0, 1, 2]


# ---------------------------------------------------------------- shuffled rows


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A cache of 1,000 rows whose activation is the row's number, in contexts of 1 to 12 rows."""
    folder = tmp_path_factory.mktemp("numbered")
    rng = np.random.default_rng(0)
    lengths = []
    while sum(lengths) < 1000:
        lengths.append(min(int(rng.integers(1, 13)), 1000 - sum(lengths)))
    context = np.repeat(np.arange(len(lengths)), lengths)
    column = np.concatenate([1 + np.arange(n) for n in lengths])
    np.arange(1000, dtype=np.float32)[:, None].tofile(folder / "activations.f32")
    rows = np.stack([context, column - 1, context, column], axis=1).astype(np.int32)
    rows.tofile(folder / "rows.i32")
    np.zeros((len(lengths), 16), np.int32).tofile(folder / "ids.i32")
    manifest = {"n_rows": 1000, "d_in": 1, "n_contexts": len(lengths)}
    manifest["spec"] = {"rule": {"context": 16}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return ActivationCache(folder)


def _stream(source, n, batch=1):
    """The next n rows, as numbers."""
    taken = []
    for rows in source.batches(batch):
        assert rows.shape == (batch, 1) and rows.dtype == torch.float32
        taken += rows[:, 0].int().tolist()
        if len(taken) >= n:
            return taken[:n]


def _source(cache, seed=0, pool=150, contexts=None):
    chosen = np.arange(len(cache.ids)) if contexts is None else contexts
    return ShuffledRows(cache, chosen, seed, pool)


@pytest.mark.parametrize("pool", [1, 40, 150, 999, 10**6])
def test_every_row_once_an_epoch_in_another_order_each_time(numbered, pool):
    three = np.reshape(_stream(_source(numbered, pool=pool), 3000, batch=8), (3, 1000))
    for epoch in three:
        assert sorted(epoch.tolist()) == list(range(1000))
    assert (three[0] != three[1]).mean() > 0.9 and (three[1] != three[2]).mean() > 0.9
    assert (three[0] != np.arange(1000)).mean() > 0.9


def test_only_rows_of_the_chosen_contexts(numbered):
    contexts = np.arange(len(numbered.ids))[::3]
    source = _source(numbered, contexts=contexts)
    wanted = np.flatnonzero(np.isin(numbered.context, contexts))
    assert source.n_rows == len(wanted)
    assert sorted(_stream(source, len(wanted))) == wanted.tolist()


def test_the_order_is_the_seeds_and_nothing_elses(numbered):
    first = _stream(_source(numbered), 1500)
    assert _stream(_source(numbered), 1500) == first
    assert _stream(_source(numbered), 1500, batch=7) == first, "nor the batch size"
    assert _stream(_source(numbered, seed=1), 1500) != first


@pytest.mark.parametrize("taken", [0, 3, 150, 1001])
def test_the_order_does_not_depend_on_the_pieces_a_pool_is_copied_in(numbered, taken, monkeypatch):
    whole = _stream(_source(numbered), 2500)
    monkeypatch.setattr(activations, "PIECE_ROWS", 7)
    source = _source(numbered)
    source.seek(taken)
    assert _stream(source, 1300, batch=16) == whole[taken : taken + 1300]


@pytest.mark.parametrize("pool", [40, 150, 600])
def test_pools_hold_at_least_what_was_asked_for(numbered, pool):
    source = _source(numbered, pool=pool)
    pools = source._pools(0)
    sizes = [len(numbered.rows_of(contexts)) for contexts in pools]
    assert sum(sizes) == 1000 and min(sizes) >= pool and max(sizes) < 2 * pool + 12
    stream, start = _stream(source, 1000), 0
    for contexts, size in zip(pools, sizes, strict=True):
        mixed = stream[start : start + size]
        assert set(mixed) == set(numbered.rows_of(contexts).tolist())
        order = np.argsort(mixed)
        assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 6 / np.sqrt(size), "mixed inside"
        start += size


@pytest.mark.parametrize("taken", [0, 1, 149, 150, 161, 512, 999, 1000, 1001, 2345])
def test_seek_goes_on_as_if_the_rows_had_been_taken(numbered, taken):
    whole = _stream(_source(numbered), 3400)
    source = _source(numbered)
    source.seek(taken)
    assert _stream(source, 1000, batch=8) == whole[taken : taken + 1000]


def test_the_state_counts_what_was_handed_out(numbered):
    source = _source(numbered, seed=5)
    batches = source.batches(16)
    for _ in range(70):
        next(batches)
    assert source.state() == {"seed": 5, "taken": 1120}
    again = _source(numbered, seed=5)
    again.seek(source.state()["taken"])
    assert torch.equal(next(again.batches(16)), next(batches))


def test_a_batch_larger_than_the_corpus_goes_round_it(numbered):
    (rows,) = (rows for rows, _ in zip(_source(numbered).batches(2500), range(1), strict=False))
    assert np.bincount(rows[:, 0].int().numpy()).tolist() == [
        3 if n in set(rows[2000:, 0].int().tolist()) else 2 for n in range(1000)
    ]


def test_batches_are_the_readers_own(numbered):
    source = _source(numbered)
    batches = source.batches(10)
    first = next(batches)
    kept = first.clone()
    first.zero_()
    following = next(batches)
    assert following.abs().sum() > 0
    assert sorted(kept[:, 0].int().tolist()) != sorted(following[:, 0].int().tolist())
    assert np.array_equal(numbered.x[:, 0], np.arange(1000)), "the cache itself is never written"


def test_a_text_without_training_documents_is_refused(numbered):
    with pytest.raises(TextError, match="training split; use a longer text"):
        _source(numbered, contexts=np.empty(0, dtype=np.int64))


def test_a_negative_seed_is_refused(numbered):
    with pytest.raises(TextError, match="--seed -1"):
        _source(numbered, seed=-1)

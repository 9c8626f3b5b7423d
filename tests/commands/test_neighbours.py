"""`neighbours` through the door: its files against whole matrices, two SAEs, refusals in a line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch

import run
from data import lm as language_models
from data.activations import ActivationCache
from data.errors import StoreError
from data.neighbours_store import MapStore, NeighboursStore, newest_of
from data.schema import open_root
from data.workspace import Workspace
from interp.sampling import token_hash
from sae import formats
from tests import tiny
from tests.commands import untrained

DEAD = 30  # the last but one feature of an untrained SAE never fires; it has a direction
TOKENS = 1500
KINDS = {"decoder", "encoder", "coactivation", "correlation"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workspace:
    """Two SAEs of one model at different sites, one of another width, one of another model."""
    sites = {"one": "resid_post.1", "two": "resid_post.0"}
    workspace = untrained.workspace(tmp_path_factory.mktemp("neighbours"), sites)
    _change(workspace, "one", "foreign", lambda sae, made: made.update(lm_weights="0123"))
    folder = workspace.sae("one").with_name("wide")
    folder.mkdir()
    formats.save(tiny.random_sae(np.ones((4, 30), np.float32), 8), folder, {})
    return workspace


@pytest.fixture
def workspace(made):
    """The same without what an earlier test wrote."""
    for name in made.saes:
        shutil.rmtree(made.sae(name) / "extra", ignore_errors=True)
    return made


@pytest.fixture
def root():
    root = open_root(threads=1)
    yield root
    root.close()


def _change(workspace, name, to, change):
    """A copy of an SAE after `change(sae, what training recorded)`."""
    sae, config = formats.load(workspace.sae(name))
    with torch.no_grad():
        change(sae, config["metadata"]["workbench"])
    with workspace.new_sae(to, replace=True) as part:
        formats.save(sae, part, config["metadata"])


def _run(workspace, *words):
    return run.main(["neighbours", *map(str, words), "--workspace", str(workspace.root)])


def _refused(workspace, capsys, *words):
    capsys.readouterr()
    assert _run(workspace, *words) == 2
    told = capsys.readouterr().err.strip().splitlines()
    return told[-1]


def _sha256(workspace, name):
    weights = workspace.sae(name) / "sae_weights.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def _store(workspace, root, name, other=None):
    sha256 = _sha256(workspace, name)
    path = newest_of(root, workspace.extra(name, "neighbours"), sha256, other)
    return NeighboursStore(root, path, sha256)


def _cache(workspace, site):
    caches = [ActivationCache(p) for p in (workspace.root / "activations").glob("[0-9a-f]*")]
    return next(c for c in caches if c.manifest["spec"]["site"] == site)


def _rows(cache, seed=0):
    hashes = token_hash(np.array(cache.doc), np.array(cache.position), seed)
    return np.argsort(hashes)[:TOKENS]


def _cosines(U, V):
    U, V = (W.double() / W.double().norm(dim=1, keepdim=True) for W in (U, V))
    return (U @ V.T).numpy()


def _check(store, f, g, cosines, same):
    """Every row of a file against dense codes [tokens, features] and whole matrices of cosines."""
    n, together = len(f), (f > 0).T.astype(float) @ (g > 0)
    fires, others = (f > 0).sum(0), (g > 0).sum(0)
    listed = dict.fromkeys(KINDS, 0)
    for feature in range(f.shape[1]):
        found = store.neighbours(feature)
        for kind, matrix in cosines.items():
            row = matrix[feature].copy()
            if same:
                row[feature] = -9
            order = np.argsort(-row, kind="stable")[: len(found[kind])]
            assert len(order) == min(8, len(row) - same)
            assert [m.value for m in found[kind]] == pytest.approx(row[order].tolist(), abs=1e-6)
            assert all(m.value == pytest.approx(row[m.other], abs=1e-6) for m in found[kind])
        for kind in KINDS:
            listed[kind] += len(found[kind])
            for m in found[kind]:
                c, a, b = together[feature, m.other], fires[feature], others[m.other]
                assert m.together == c
                assert m.given_this == (pytest.approx(c / a) if a else None)
                assert m.given_other == (pytest.approx(c / b) if b else None)
                if a and b:
                    r = np.corrcoef(f[:, feature], g[:, m.other])[0, 1]
                    assert m.r == pytest.approx(r, abs=1e-5)
                if kind == "coactivation":
                    assert m.value == pytest.approx(np.log(c * n / (a * b)), abs=1e-5)
                if kind == "correlation":
                    assert m.value == m.r
    return listed


def test_one_sae(workspace, root, capsys):
    assert _run(workspace, "one", "--tokens", TOKENS, "--keep", 8) == 0
    told = capsys.readouterr()
    assert told.out.count("wrote ") == 2, told
    store = _store(workspace, root, "one")
    sae, _ = formats.load(workspace.sae("one"))
    cache = _cache(workspace, "resid_post.1")
    f = sae.encode(torch.from_numpy(cache.x[_rows(cache)])).detach().numpy()
    decoder, encoder = sae.W_dec.detach(), sae.W_enc.detach().T
    cosines = {"decoder": _cosines(decoder, decoder), "encoder": _cosines(encoder, encoder)}
    listed = _check(store, f, f, cosines, same=True)
    assert min(listed.values()) > 20, listed
    dead = store.neighbours(DEAD)
    assert len(dead["decoder"]) == 8 and dead["coactivation"] == ()
    assert store.meta["tokens"] == TOKENS and store.meta["activations"] == [cache.folder.name]
    assert store.meta["arguments"] == {"tokens": TOKENS, "keep": 8, "seed": 0}
    assert {"code", "versions", "content_hash", "wall_s"} <= set(store.meta)
    (path,) = workspace.extra("one", "map")
    places = MapStore(root, path, _sha256(workspace, "one"))
    assert len(places.places()) == 32 and places.meta["method"] == "pca"


def test_two_saes_in_both_directions(workspace, root):
    assert _run(workspace, "one", "--other", "two", "--tokens", TOKENS, "--keep", 8) == 0
    saes = [formats.load(workspace.sae(name))[0] for name in ("one", "two")]
    caches = [_cache(workspace, site) for site in ("resid_post.1", "resid_post.0")]
    rows = [_rows(cache) for cache in caches]
    np.testing.assert_array_equal(rows[0], rows[1])  # both masks keep the same tokens here
    f, g = (
        sae.encode(torch.from_numpy(cache.x[row])).detach().numpy()
        for sae, cache, row in zip(saes, caches, rows, strict=True)
    )
    decoder = _cosines(*(sae.W_dec.detach() for sae in saes))
    encoder = _cosines(*(sae.W_enc.detach().T for sae in saes))
    forth = _check(_store(workspace, root, "one", "two"), f, g,
                   {"decoder": decoder, "encoder": encoder}, same=False)  # fmt: skip
    back = _check(_store(workspace, root, "two", "one"), g, f,
                  {"decoder": decoder.T, "encoder": encoder.T}, same=False)  # fmt: skip
    assert min(forth.values()) > 20 and min(back.values()) > 20
    assert newest_of(root, workspace.extra("one", "neighbours"), _sha256(workspace, "one")) is None


def test_a_copy_in_other_units_is_recognised(workspace, root):
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))

    def shuffle(sae, _):
        for name in ("W_enc", "b_enc", "W_dec", "threshold"):
            weights = getattr(sae, name)
            weights.copy_(weights[:, order] if name == "W_enc" else weights[order])
        for name in ("W_enc", "b_enc", "threshold"):
            getattr(sae, name).mul_(4)
        sae.W_dec.div_(4)

    _change(workspace, "one", "copy", shuffle)
    assert _run(workspace, "one", "--other", "copy", "--tokens", TOKENS) == 0
    for name, other, expected in (("one", "copy", order.argsort()), ("copy", "one", order)):
        store = _store(workspace, root, name, other)
        for kind in ("decoder", "encoder", "correlation"):
            found = store.matches(kind)
            # The last feature always fires and some hardly ever: they correlate with nothing.
            found = [m for m in found if kind != "correlation" or m.together > 20]
            assert len(found) > 20
            assert {m.feature: m.other for m in found} == {m.feature: int(expected[m.feature])
                                                           for m in found}  # fmt: skip
            assert [m.value for m in found] == pytest.approx([1.0] * len(found))
    shutil.rmtree(workspace.sae("copy"))


def test_the_same_again_is_the_same_and_is_not_made_twice(workspace, root, capsys):
    command = ("one", "--tokens", TOKENS, "--seed", 5)
    assert _run(workspace, *command) == 0
    first = _store(workspace, root, "one").meta
    written = workspace.extra("one", "neighbours")[0].stat().st_mtime_ns
    capsys.readouterr()
    assert _run(workspace, *command) == 0
    assert "was made before; --replace makes it again" in capsys.readouterr().out
    assert workspace.extra("one", "neighbours")[0].stat().st_mtime_ns == written
    assert _run(workspace, *command, "--replace") == 0
    again = _store(workspace, root, "one").meta
    assert again["content_hash"] == first["content_hash"]
    assert workspace.extra("one", "neighbours")[0].stat().st_mtime_ns > written
    assert _run(workspace, *command[:3], "--seed", 6) == 0
    assert len(workspace.extra("one", "neighbours")) == 2
    assert _store(workspace, root, "one").meta["content_hash"] != first["content_hash"]


def test_files_that_cannot_be_read_are_made_anew(workspace, root, capsys):
    command = ("one", "--tokens", 0)
    assert _run(workspace, *command) == 0
    paths = [workspace.extra("one", kind)[0] for kind in ("neighbours", "map")]
    before = _store(workspace, root, "one").meta["content_hash"]
    for path in paths:
        os.truncate(path, 5000)
    capsys.readouterr()
    assert _run(workspace, *command) == 0
    told = capsys.readouterr().out
    assert all(f"wrote {path}" in told for path in paths)
    assert _store(workspace, root, "one").meta["content_hash"] == before


def test_directions_alone_need_no_model(workspace, root, monkeypatch):
    def refuse(*_):
        raise AssertionError("no model is needed")

    monkeypatch.setattr(language_models, "load_again", refuse)
    monkeypatch.setattr(language_models, "load", refuse)
    assert _run(workspace, "wide", "--tokens", 0) == 0
    assert _run(workspace, "one", "--other", "foreign", "--tokens", 0) == 0
    store = _store(workspace, root, "wide")
    assert store.meta["kinds"] == ["decoder", "encoder"] and store.meta["tokens"] == 0
    assert store.neighbours(0, "decoder")["decoder"][0].together is None
    assert _store(workspace, root, "one", "foreign").matches("encoder")[0].value == 1


def test_a_file_made_for_weights_that_were_replaced_is_refused(workspace, root):
    _change(workspace, "one", "moved", lambda sae, _: None)
    assert _run(workspace, "moved", "--tokens", 0) == 0
    (path,) = workspace.extra("moved", "neighbours")
    with workspace.new_sae("apart") as part:  # the name's new weights, the old file beside them
        formats.save(formats.load(workspace.sae("two"))[0], part, {})
    sha256 = _sha256(workspace, "apart")
    with pytest.raises(StoreError, match="made from other weights than moved has now: run: "):
        NeighboursStore(root, path, sha256).neighbours(0)
    assert newest_of(root, [path], sha256) is None
    for name in ("moved", "apart"):
        shutil.rmtree(workspace.sae(name))


def test_refusals(workspace, capsys, monkeypatch):
    def refused(*words):
        return _refused(workspace, capsys, *words)

    assert "no SAE 'gone'" in refused("gone")
    assert "--keep 0: give 1 or more" in refused("one", "--keep", 0)
    assert "--tokens -1: give a number of tokens" in refused("one", "--tokens", -1)
    assert "--tokens 0.5: give a number" in refused("one", "--tokens", 0.5)
    assert "--other one is the SAE itself" in refused("one", "--other", "one")
    assert "--map 'tsne' is unknown" in refused("one", "--map", "tsne")
    assert "24 and 30 wide have no directions" in refused("one", "--other", "wide", "--tokens", 0)
    assert "24 and 30 wide have no directions" in refused("one", "--other", "wide")
    assert "another model than one, or does not record" in refused("one", "--other", "foreign")
    assert "does not record its lm" in refused("wide", "--tokens", 100)
    monkeypatch.setitem(sys.modules, "umap", None)
    assert "pip install umap-learn" in refused("one", "--map", "umap")
    assert workspace.extra("one", "neighbours") == [], "refused before any work"


def test_the_map_is_of_the_named_sae_and_drawn_once(workspace, root, capsys):
    assert _run(workspace, "one", "--other", "two", "--tokens", 0) == 0
    assert len(workspace.extra("one", "map")) == 1 and workspace.extra("two", "map") == []
    before = workspace.extra("one", "map")[0].stat().st_mtime_ns
    assert _run(workspace, "one", "--tokens", 0) == 0
    assert workspace.extra("one", "map")[0].stat().st_mtime_ns == before
    with root.reading(workspace.extra("one", "map")[0]) as (cursor, store):
        rows = cursor.execute(f"SELECT key, value FROM {store}.meta").fetchall()
    meta = {key: json.loads(value) for key, value in rows}
    assert meta["sae"] == "one" and meta["seed"] is None and len(meta["explained"]) == 2

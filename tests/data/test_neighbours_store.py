"""Neighbours and maps on disk: the same rows back, absent as absent, other weights refused."""

from __future__ import annotations

import hashlib
import os
import resource

import duckdb
import numpy as np
import pytest

from data import neighbours_store
from data.errors import StoreError
from data.neighbours_store import (
    MapStore,
    Neighbour,
    NeighboursStore,
    Place,
    newest_of,
    write_map,
    write_neighbours,
)
from data.schema import open_root

META = {"sae": "one", "other": None, "weights_sha256": "aa", "seed": 3}
LISTS = {
    "decoder": {
        "feature": np.array([0, 0, 2]), "rank": np.array([0, 1, 0]), "other": np.array([2, 1, 0]),
        "value": np.array([0.75, -0.5, 0.75]), "together": np.array([4, 0, 4]),
        "given_this": np.array([0.5, np.nan, 1.0]), "given_other": np.array([1.0, 0.0, 0.5]),
        "r": np.array([0.25, np.nan, 0.25]),
    },
    "coactivation": {
        "feature": np.array([2]), "rank": np.array([0]), "other": np.array([0]),
        "value": np.array([1.5]), "together": np.array([4]), "given_this": np.array([1.0]),
        "given_other": np.array([0.5]), "r": np.array([0.25]),
    },
}  # fmt: skip


@pytest.fixture
def root():
    root = open_root(threads=1)
    yield root
    root.close()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "neighbours-0.duckdb"
    write_neighbours(path, META, LISTS)
    return path


def test_the_rows_come_back(root, path):
    store = NeighboursStore(root, path, "aa")
    nearest = Neighbour(0, "decoder", 0, 2, 0.75, 4, 0.5, 1.0, 0.25)
    undefined = Neighbour(0, "decoder", 1, 1, -0.5, 0, None, 0.0, None)
    assert store.neighbours(0, "decoder") == {"decoder": (nearest, undefined)}
    both = store.neighbours(2, ("coactivation", "decoder"))
    assert list(both) == ["coactivation", "decoder"]
    assert both["coactivation"] == (Neighbour(2, "coactivation", 0, 0, 1.5, 4, 1.0, 0.5, 0.25),)
    assert store.neighbours(1) == dict.fromkeys(neighbours_store.NEIGHBOUR_KINDS, ())
    assert store.meta["kinds"] == ["coactivation", "decoder"] and store.meta["seed"] == 3
    with pytest.raises(StoreError, match="no neighbours of kind 'best': choose from coactivation"):
        store.neighbours(0, ("decoder", "best"))


def test_what_was_not_measured_is_absent(root, tmp_path):
    bare = {name: LISTS["decoder"][name] for name in ("feature", "rank", "other", "value")}
    write_neighbours(tmp_path / "n.duckdb", META, {"decoder": bare})
    found = NeighboursStore(root, tmp_path / "n.duckdb", "aa").neighbours(2, "decoder")
    assert found["decoder"] == (Neighbour(2, "decoder", 0, 0, 0.75, None, None, None, None),)


def test_the_closest_pairs_first_page_by_page(root, path):
    store = NeighboursStore(root, path, "aa")
    assert [(n.feature, n.other) for n in store.matches("decoder")] == [(0, 2), (2, 0)]
    assert [n.feature for n in store.matches("decoder", page=2, page_size=1)] == [2]
    assert store.matches("encoder") == []


def test_a_hash_of_the_rows_alone(tmp_path, monkeypatch):
    first = write_neighbours(tmp_path / "a.duckdb", META, LISTS)
    monkeypatch.setattr(neighbours_store, "FEATURES_AT_ONCE", 1)
    again = write_neighbours(tmp_path / "b.duckdb", META | {"seed": 4}, LISTS)
    changed = {**LISTS["decoder"], "value": np.array([0.75, -0.5, 0.5])}
    other = write_neighbours(tmp_path / "c.duckdb", META, LISTS | {"decoder": changed})
    assert first == again != other


def test_rows_are_sorted_on_disk(path):
    with duckdb.connect(str(path), read_only=True) as con:
        rows = con.execute("SELECT feature, kind, rank FROM neighbour").fetchall()
    assert rows == sorted(rows)


def test_no_feature_at_all(root, tmp_path):
    nothing = {k: {c: v[:0] for c, v in columns.items()} for k, columns in LISTS.items()}
    write_neighbours(tmp_path / "n.duckdb", META, nothing)
    assert NeighboursStore(root, tmp_path / "n.duckdb", "aa").matches("decoder") == []
    write_map(tmp_path / "m.duckdb", META, np.empty(0, np.int64), np.empty((0, 2)))
    assert MapStore(root, tmp_path / "m.duckdb", "aa").places() == []


def test_places_of_some_and_of_all(root, tmp_path):
    path, places = tmp_path / "map-0.duckdb", np.array([[0.5, -1.0], [2.0, 0.25]])
    digest = write_map(path, META | {"method": "pca"}, np.array([1, 7]), places)
    store = MapStore(root, path, "aa")
    assert store.places() == [Place(1, 0.5, -1.0), Place(7, 2.0, 0.25)]
    assert store.places([7, 3, 7]) == [Place(7, 2.0, 0.25)] and store.places([]) == []
    assert store.meta["content_hash"] == digest and store.meta["method"] == "pca"


def test_other_weights_are_refused(root, path, tmp_path):
    with pytest.raises(StoreError, match="other weights than one has now: run: .* neighbours one"):
        NeighboursStore(root, path, "bb").neighbours(0)
    write_map(tmp_path / "map-0.duckdb", META, np.array([1]), np.zeros((1, 2)))
    with pytest.raises(StoreError, match="made from other weights"):
        MapStore(root, tmp_path / "map-0.duckdb", "bb").places()


def test_a_file_that_is_not_there_or_damaged(root, path, tmp_path):
    with pytest.raises(StoreError, match="no store at"):
        NeighboursStore(root, tmp_path / "gone.duckdb", "aa").neighbours(0)
    os.truncate(path, 5000)
    with pytest.raises(StoreError, match="make it again"):
        NeighboursStore(root, path, "aa").neighbours(0)


def test_a_newer_file_is_seen(root, path):
    store = NeighboursStore(root, path, "aa")
    assert len(store.neighbours(0, "decoder")["decoder"]) == 2
    write_neighbours(path, META, {"decoder": {c: v[:1] for c, v in LISTS["decoder"].items()}})
    assert len(store.neighbours(0, "decoder")["decoder"]) == 1


def test_the_newest_that_fits(root, tmp_path):
    made = [
        META | {"weights_sha256": "old"},
        META | {"other": "two", "other_weights_sha256": "cc"},
        META,
        META | {"seed": 9},
    ]
    paths = [tmp_path / f"neighbours-{n}.duckdb" for n in range(len(made))]
    for path, meta in zip(paths, made, strict=True):
        write_neighbours(path, meta, LISTS)
    assert newest_of(root, paths, "aa") == paths[2]
    assert newest_of(root, paths, "aa", "two") == paths[1]
    assert newest_of(root, paths, "aa", "two", "cc") == paths[1]
    assert newest_of(root, paths, "aa", "two", "dd") is None
    assert newest_of(root, paths, "new") is None and newest_of(root, [], "aa") is None


def test_one_that_cannot_be_read_hides_no_older_one(root, path, tmp_path):
    """Damaged, of another schema, of the weights that lay here before, gone."""
    folder = tmp_path / "saes" / "one"
    (folder / "extra").mkdir(parents=True)
    (folder / "sae_weights.safetensors").write_bytes(b"weights")
    now = hashlib.sha256(b"weights").hexdigest()
    names = ("damaged", "other", "before", "good")
    paths = {n: folder / "extra" / f"neighbours-{n}.duckdb" for n in names}
    for name, where in paths.items():
        weights = "before" if name == "before" else now
        write_neighbours(where, META | {"weights_sha256": weights}, LISTS)
    os.truncate(paths["damaged"], 5000)
    with duckdb.connect(str(paths["other"])) as con:
        con.execute("UPDATE meta SET value = '1' WHERE key = 'schema'")
    gone = folder / "extra" / "neighbours-gone.duckdb"
    assert newest_of(root, [gone, *paths.values()], now) == paths["good"]
    assert newest_of(root, [gone, *list(paths.values())[:3]], now) is None


@pytest.mark.parametrize("room", [2_000, 50_000])
def test_a_full_disk_is_told_in_one_sentence(path, room):
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(StoreError, match="could not be written .* free some space"):
            write_neighbours(path, META, LISTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_interrupted_write_leaves_nothing(root, path, monkeypatch):
    before = path.read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(neighbours_store.schema, "content_hash", fail)
    with pytest.raises(KeyboardInterrupt):
        write_neighbours(path, META, LISTS)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]

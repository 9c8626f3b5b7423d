"""The stores: what is written comes back, and nothing else does."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from data import schema
from data.errors import StoreBusy, StoreError
from data.features_store import FeatureStore, write_features
from data.records import FLAGS, Example, Explanation, FeatureFilter, FeatureRow, FeatureStats
from data.rowhash import OutOfOrder, in_order
from data.runs_store import read_results, write_results
from data.schema import open_root
from tests.data import handmade

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def root():
    root = open_root(threads=1)
    yield root
    root.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    handmade.write(folder / "features.duckdb")
    handmade.write_run(folder / "results.duckdb")
    return folder


@pytest.fixture
def store(written, tmp_path, root):
    for name in ("features.duckdb", "results.duckdb"):
        shutil.copyfile(written / name, tmp_path / name)
    return FeatureStore(root, tmp_path / "features.duckdb", tmp_path / "results.duckdb")


@pytest.fixture
def bare(store, root):
    """The same store without an auto-interp run."""
    return FeatureStore(root, store.path)


# -- round trip


def test_meta_round_trip(store):
    assert store.meta["hist_edges"] == [0.0, 1.0, 2.0]
    assert store.meta["schema"] == schema.SCHEMA
    assert len(store.meta["content_hash"]) == 64
    assert store.n_features == 6


def test_feature_round_trip(store):
    stats, written = store.feature(3), handmade.rows()["feature"][3]
    for name, value in written.items():
        back = getattr(stats, name)
        assert (list(back) if isinstance(back, tuple) else back) == pytest.approx(value), name


def test_dead_feature_has_no_maximum(store):
    stats = store.feature(0)
    assert (stats.mean, stats.max, stats.peak_token) == (None, None, None)
    assert stats.fires == 0


def test_unknown_feature_is_named(store):
    with pytest.raises(StoreError, match="no feature 99999 in this SAE: it has 0 to 5"):
        store.feature(99999)


def test_example_is_cut_from_its_document_and_densified(store):
    first = store.examples(1)[0]
    assert first == Example(
        feature=1, kind="top", part="", rank=0, doc=0, document="a.txt", use="explain", start=1,
        peak=2, max=3.0, pre=3.0, inclusion=1.0, copies=1, ids=(2, 3, 4, 1),
        values=(1.5, 0.0, 3.0, 0.0),
    )  # fmt: skip


def test_examples_come_top_first_and_can_be_narrowed(store):
    assert [(e.kind, e.part, e.rank) for e in store.examples(1)] == [
        ("top", "", 0), ("top", "", 1), ("quantile", "0.99-1", 0), ("quantile", "0-0.5", 0),
        ("active", "", 0), ("near_miss", "under", 0), ("near_miss", "token", 0), ("random", "", 0),
    ]  # fmt: skip
    assert [e.doc for e in store.examples(1, kind="active")] == [7]
    assert {e.doc for e in store.examples(1, use="score")} == {1}
    assert store.examples(1, kind="active", use="score") == []
    assert store.examples(0) == []
    silent = store.examples(1, kind="random")[0]
    assert silent.values == (0.0, 0.0, 0.0) and silent.ids == (2, 2, 2)


def test_unknown_kind_or_use_is_refused(store):
    with pytest.raises(StoreError, match="choose from top, quantile, active, near_miss, random"):
        store.examples(1, kind="best")
    with pytest.raises(StoreError, match="choose from explain, calibrate, score"):
        store.examples_for([1], "train")


def test_no_score_document_reaches_an_explanation(store):
    every = {e.doc for i in range(6) for e in store.examples(i)}
    assert 1 in every, "the planted example must be there to be kept out"
    for use, docs in {"explain": {0, 7}, "calibrate": {2}, "score": {1}}.items():
        found = store.examples_for(range(6), use)
        assert {e.doc for examples in found.values() for e in examples} == docs
        assert {e.use for examples in found.values() for e in examples} == {use}
    assert store.examples_for([0, 3], "explain") == {0: [], 3: []}
    assert store.examples_for([], "explain") == {}


def test_token_bytes(store):
    assert store.token_bytes([0, 3, 77]) == {0: (b"<bos>", True), 3: (b"\xf0\x9f", False)}


def test_results_round_trip(store, root):
    meta, explanations, scores = read_results(root, store.results)
    assert meta["judge"] == "lexical"
    assert list(explanations.values()) == handmade.EXPLANATIONS
    assert list(scores.values()) == handmade.SCORES
    assert store.explanation(1) == handmade.EXPLANATIONS[0]
    assert store.score(3) == handmade.SCORES[2]
    assert store.explanation(0) is None and store.score(0) is None


def test_a_failed_score_cannot_carry_a_number(tmp_path):
    wrong = handmade.Score(1, "simulate", 0.0, None, None, 0, 0, "failed", "no answer")
    with pytest.raises(AssertionError):
        handmade.write_results(tmp_path / "results.duckdb", {}, [], [wrong])
    assert list(tmp_path.iterdir()) == []


def test_summary_and_densities(store, bare):
    counts = {"features": 6, "alive": 4, "dead": 2, "dense_1": 3, "dense_10": 1}
    assert store.summary() == {**counts, "explained": 2, "scored": 2}
    assert bare.summary() == {**counts, "explained": None, "scored": None}
    feature, density, largest = store.densities()
    assert feature.tolist() == [0, 1, 2, 3, 4, 5]
    assert density.tolist() == [0.0, 0.05, 0.5, 0.007, 0.05, 0.0]
    assert np.isnan(largest[[0, 5]]).all() and largest[3] == 9.0


def test_random_feature_fires_and_follows_its_seed(store, tmp_path, root):
    drawn = [store.random_feature(seed) for seed in range(60)]
    assert set(drawn) == {1, 2, 3, 4}
    assert drawn == [store.random_feature(seed) for seed in range(60)]
    tables = handmade.rows()
    for row in tables["feature"]:
        row["fires"] = 0
    handmade.write(tmp_path / "silent.duckdb", tables)
    with pytest.raises(StoreError, match="no feature .* fires"):
        FeatureStore(root, tmp_path / "silent.duckdb").random_feature(0)


# -- the feature list, against plain Python


def at_least(value: float | None, bound: float | None) -> bool:
    return bound is None or (value is not None and value >= bound)


def listed(filter: FeatureFilter, run: bool) -> list[int]:
    """The features the list should hold, worked out row by row."""
    labels = {e.feature: e.text for e in handmade.EXPLANATIONS if e.status == "ok"} if run else {}
    scores = {s.feature: s for s in handmade.SCORES} if run else {}
    tokens = {t["id"]: t["bytes"] for t in handmade.TOKENS}
    found = []
    for row in handmade.rows()["feature"]:
        i, peak = row["feature"], tokens.get(row["peak_token"])
        score = scores.get(i)
        shown = {
            **row, "label": labels.get(i), "peak_token": peak,
            "top_logit_token": tokens[row["top_logit"]],
            "score": score and score.value, "score_low": score and score.low,
            "score_high": score and score.high,
        }  # fmt: skip
        texts = [shown["label"] or "", (peak or b"").decode("utf-8", "replace")]
        keep = (
            (not filter.text or any(filter.text.lower() in text.lower() for text in texts))
            and (filter.feature is None or i == filter.feature)
            and (filter.density_min is None or row["density"] >= filter.density_min)
            and (filter.density_max is None or row["density"] <= filter.density_max)
            and at_least(row["max"], filter.max_min)
            and at_least(shown["score"], filter.score_min)
            and (filter.alive is None or (row["fires"] > 0) == filter.alive)
            and all(getattr(filter, f) in (None, row[f]) for f in FLAGS)
        )
        if keep:
            found.append((shown[filter.sort], i))
    present = sorted((f for f in found if f[0] is not None), key=lambda f: f[1])
    present.sort(key=lambda f: f[0], reverse=filter.descending)
    return [i for _, i in present] + sorted(i for value, i in found if value is None)


BOUNDS = [
    {}, {"text": "THE"}, {"text": "ét"}, {"text": "\ufffd"}, {"text": "100%"}, {"text": "%"},
    {"text": "_"}, {"text": "never"}, {"feature": 3}, {"density_min": 0.05},
    {"density_max": 0.05}, {"density_min": 0.006, "density_max": 0.1}, {"max_min": 2.5},
    {"score_min": 0.25}, {"score_min": -1.0}, {"alive": True}, {"alive": False},
    {"text": "t", "alive": True, "max_min": 1.0}, {"rare": True}, {"rare": False},
    {"dense_1": True, "dense_10": False}, {"single_token": True}, {"position_bound": True},
    {"outlier_bound": False},
]  # fmt: skip
SORTS = [field.name for field in fields(FeatureRow)]


@pytest.mark.parametrize("run", [True, False], ids=["with run", "bare"])
def test_list_agrees_with_plain_python(store, bare, run):
    chosen, lengths = (store if run else bare), set()
    some = [{}, {"text": "t", "alive": True}]
    combinations = [
        *itertools.product(BOUNDS, ["feature"], [False]),
        *itertools.product(some, SORTS, [False, True]),
    ]
    for bounds, sort, descending in combinations:
        filter = FeatureFilter(**bounds, sort=sort, descending=descending)
        expected = listed(filter, run)
        rows, total = chosen.rows(filter)
        assert ([row.feature for row in rows], total) == (expected, len(expected)), filter
        lengths.add(total)
    assert len(lengths) >= 4, "the filters should keep different numbers of features"


def test_pages_cover_the_list_once(store):
    filter = FeatureFilter(sort="density", descending=True, page_size=4)
    pages = [store.rows(FeatureFilter(**{**vars(filter), "page": page})) for page in (1, 2, 3)]
    assert [total for _, total in pages] == [6, 6, 6]
    assert [[row.feature for row in rows] for rows, _ in pages] == [[2, 1, 4, 3], [0, 5], []]


def test_row_content(store, bare):
    row = store.rows(FeatureFilter(feature=2))[0][0]
    assert (row.label, row.score, row.score_low, row.score_high) == (
        "accents, 100% of them", 0.75, 0.7, 0.8,
    )  # fmt: skip
    assert (row.peak_token, row.top_logit_token, row.peak_share) == (
        "ÉT".encode(),
        b"\xf0\x9f",
        0.9,
    )
    assert store.rows(FeatureFilter(feature=4))[0][0].label is None, "a failure is no label"
    assert bare.rows(FeatureFilter(feature=2))[0][0].score is None


def test_the_list_has_every_number_of_a_feature():
    """All but what only its histograms need, and ids of tokens, which it shows as bytes."""
    of_histograms = {"hist_first", "hist_counts", "pre_counts", "pre_unit", "positions"}
    numbers = {f.name for f in fields(FeatureStats)} - of_histograms - {"top_logit"}
    assert numbers <= set(SORTS)
    assert {*FLAGS, "dead"} <= set(SORTS)


def test_rows_agree_with_the_features(store):
    for row in store.rows(FeatureFilter(sort="q50"))[0]:
        stats = store.feature(row.feature)
        for name in set(SORTS) & {f.name for f in fields(FeatureStats)} - {"peak_token"}:
            assert getattr(row, name) == getattr(stats, name), name
            assert type(getattr(row, name)) is type(getattr(stats, name)), name


def test_a_list_over_a_run_of_some_features(tmp_path, root):
    """Labels stand beside their own features, also where a run has others or none."""
    handmade.write(tmp_path / "features.duckdb")
    labels = [Explanation(i, "lexical", f"label {9 - i}", {}) for i in (2, 4, 77)]
    write_results(tmp_path / "results.duckdb", {}, labels, [])
    write_results(tmp_path / "none" / "results.duckdb", {}, [], [])
    some = FeatureStore(root, tmp_path / "features.duckdb", tmp_path / "results.duckdb")
    rows, _ = some.rows(FeatureFilter(sort="label"))
    assert [(row.feature, row.label) for row in rows[:3]] == [
        (4, "label 5"), (2, "label 7"), (0, None),
    ]  # fmt: skip
    assert [row.feature for row in some.rows(FeatureFilter(text="LABEL"))[0]] == [2, 4]
    none = FeatureStore(root, tmp_path / "features.duckdb", tmp_path / "none" / "results.duckdb")
    assert len(none.rows(FeatureFilter(sort="label"))[0]) == 6
    assert none.rows(FeatureFilter(text="label"))[1] == 0
    assert some.rows(FeatureFilter(sort="label"))[0] == rows, "one run's columns are not another's"


def test_unknown_sort_column_is_refused(store):
    with pytest.raises(StoreError, match="cannot sort by 'density; DROP'.*feature, label"):
        store.rows(FeatureFilter(sort="density; DROP"))


def test_neighbours_follow_filter_and_sort(store):
    by_density = FeatureFilter(sort="density", descending=True, alive=True)
    assert [row.feature for row in store.rows(by_density)[0]] == [2, 1, 4, 3]
    assert store.neighbours(by_density, 2) == (None, 1)
    assert store.neighbours(by_density, 4) == (1, 3)
    assert store.neighbours(by_density, 3) == (4, None)
    assert store.neighbours(by_density, 0) == (None, None)


# -- documents in pieces


LONG = schema.PIECE * 2 + 10  # tokens: three pieces


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """Documents around the length of a piece; each token is 1000 * document + position."""
    lengths = {3: LONG, 5: 0, 6: schema.PIECE, 9: 1, 11: schema.PIECE + 1}
    tables = handmade.rows()
    tables["doc"] = [
        {**tables["doc"][0], "doc": doc, "n_tokens": n, "ids": [1000 * doc + i for i in range(n)]}
        for doc, n in reversed(lengths.items())
    ]
    spans = [(doc, start, length) for doc, n in lengths.items() if n for start, length in (
        (0, 1), (n - 1, 1), (0, n), (schema.PIECE - 3, 6), (schema.PIECE - 6, 6), (n - 4, 4),
    ) if start >= 0 and start + length <= n]  # fmt: skip
    one = tables["example"][0] | {"act_index": [], "act_value": [], "peak": 0}
    tables["example"] = [
        one | {"rank": rank, "doc": doc, "start": start, "length": length}
        for rank, (doc, start, length) in enumerate(spans)
    ]
    path = tmp_path_factory.mktemp("pieces") / "features.duckdb"
    handmade.write(path, tables)
    return path, tables, spans


def test_windows_across_pieces_are_what_a_slice_would_give(pieces, root):
    path, tables, spans = pieces
    ids = {row["doc"]: row["ids"] for row in tables["doc"]}
    found = FeatureStore(root, path).examples(1)
    assert len(found) == len(spans) > 15
    for example, (doc, start, length) in zip(found, spans, strict=True):
        assert list(example.ids) == ids[doc][start : start + length], (doc, start, length)


def test_documents_are_one_row_each_in_plain_sql(pieces):
    path, tables, _ = pieces
    with duckdb.connect(str(path), read_only=True) as con:
        rows = con.execute("SELECT doc, n_tokens, ids FROM doc ORDER BY doc").fetchall()
        longest = con.execute("SELECT max(len(ids)), count(*) FROM text").fetchone()
        plan = con.execute('EXPLAIN SELECT doc, "use" FROM doc').fetchall()[0][1]
    expected = sorted((row["doc"], row["n_tokens"], row["ids"]) for row in tables["doc"])
    assert rows == expected
    assert longest == (schema.PIECE, 3 + 0 + 1 + 1 + 2)
    assert "LIST" not in plan.upper(), "who does not ask for ids does not read them"


def test_documents_in_blocks_are_stored_as_in_one(pieces, tmp_path):
    _, tables, _ = pieces
    arrow = {
        name: pa.Table.from_pylist(rows, schema=handmade.arrow_schema(name))
        for name, rows in tables.items()
    }
    whole = write_features(tmp_path / "whole.duckdb", {}, arrow)
    arrow["doc"] = arrow["doc"].sort_by("doc")
    blocks = arrow | {"doc": (arrow["doc"].slice(i, 2) for i in range(0, 5, 2))}
    assert write_features(tmp_path / "blocks.duckdb", {}, blocks) == whole


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM text WHERE piece = 1",
        "DELETE FROM document WHERE doc = 9",
        "DELETE FROM document WHERE doc = 11",
        "DELETE FROM document",
        "UPDATE document SET n_tokens = n_tokens - 1 WHERE doc = 3",
    ],
)
def test_a_missing_text_is_told(pieces, root, tmp_path, change):
    path = Path(shutil.copy(pieces[0], tmp_path))
    with duckdb.connect(str(path)) as con:
        con.execute(change)
    with pytest.raises(StoreError, match="missing from this store: make it again"):
        FeatureStore(root, path).examples(1)


# -- content hash


def test_equal_content_has_equal_hash_in_any_row_order(tmp_path):
    first = handmade.write(tmp_path / "a.duckdb", meta={"wall_s": 1.0})
    tables = {name: table[::-1] for name, table in handmade.rows().items()}
    assert handmade.write(tmp_path / "b.duckdb", tables, meta={"wall_s": 2.0}) == first


CHANGES = {
    "token byte": ("token", 1, {"bytes": b" the"}),
    "special": ("token", 1, {"special": True}),
    "document id": ("doc", 0, {"ids": [1, 2, 3, 4, 1, 1]}),
    "use": ("doc", 0, {"use": "score"}),
    "density": ("feature", 1, {"density": 0.0500001}),
    "null against zero": ("feature", 0, {"mean": 0.0}),
    "list cut": ("logit", 1, {"top_ids": [2], "top_logits": [2.0]}),
    "activation": ("example", 0, {"act_value": [1.5, 3.0000002]}),
    "split of lists": ("example", 3, {"act_index": [0], "act_value": [0.0]}),
    "inclusion": ("example", 2, {"inclusion": 0.25}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_hash_differs_when_a_value_changes(tmp_path, change):
    table, row, values = CHANGES[change]
    tables = handmade.rows()
    tables[table][row] |= values
    assert handmade.write(tmp_path / "b.duckdb", tables) != handmade.write(tmp_path / "a.duckdb")


def test_hash_does_not_ask_how_rows_lie(store, tmp_path):
    """Out of order they are sorted first; the same rows again give the same hash."""
    shutil.copyfile(store.path, tmp_path / "mixed.duckdb")
    with duckdb.connect(str(tmp_path / "mixed.duckdb")) as con:
        for table in ("example", "logit"):
            order = "ORDER BY hash(feature), feature DESC"
            con.execute(f"CREATE TABLE other AS SELECT * FROM {table} {order}")
            con.execute(f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM other {order}")
            con.execute("DROP TABLE other")
        assert schema.content_hash(con) == store.meta["content_hash"]
        con.execute("UPDATE example SET rank = 7 WHERE feature = 3")
        assert schema.content_hash(con) != store.meta["content_hash"]


def test_order_is_told_within_and_between_batches():
    def told(*parts: list[tuple[int, str]]) -> bool:
        names = pa.schema([("a", pa.int32()), ("b", pa.string())])
        batches = [
            pa.RecordBatch.from_pylist([dict(a=a, b=b) for a, b in part], schema=names)
            for part in parts
        ]
        try:
            return list(in_order(batches, ["a", "b"])) == [b for b in batches if len(b)]
        except OutOfOrder:
            return False

    assert told([(0, "b"), (1, "a")], [], [(1, "b"), (2, "a")])
    assert told([]) and told([(3, "z")])
    assert not told([(0, "b"), (0, "a")])
    assert not told([(1, "b")], [(1, "a")])
    assert not told([(1, "b")], [(1, "b")]), "twice the same key"
    assert not told([(1, "a")], [], [(0, "b")])


def test_hash_can_be_computed_again_from_the_file(store):
    with duckdb.connect(str(store.path), read_only=True) as con:
        assert schema.content_hash(con) == store.meta["content_hash"]


# -- one root, many threads, replaced files


def test_threads_on_one_root_read_only_their_own_rows(store):
    wrong, done = [], []

    def read(offset: int) -> None:
        for n in range(12):
            i = (n + offset) % 6
            stats, rows = store.feature(i), store.rows(FeatureFilter(feature=i))[0]
            examples = store.examples(i)
            if {stats.feature, *(r.feature for r in rows), *(e.feature for e in examples)} != {i}:
                wrong.append((i, stats, rows))
            done.append(i)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(done) == 8 * 12


def test_replaced_file_is_seen_while_an_old_cursor_finishes(store, root):
    old = store.meta["content_hash"]
    tables = handmade.rows()
    tables["feature"][1]["density"] = 0.9
    with root.reading(store.path) as (cursor, alias):
        query = cursor.execute(f"SELECT feature, density FROM {alias}.feature ORDER BY feature")
        assert query.fetchone() == (0, 0.0)
        new = handmade.write(store.path, tables)
        assert store.feature(1).density == 0.9
        assert store.meta["content_hash"] == new != old
        assert query.fetchone() == (1, 0.05)
        again = cursor.execute(f"SELECT density FROM {alias}.feature WHERE feature = 1")
        assert again.fetchone() == (0.05,), "one block reads one snapshot"
    assert store.feature(1).density == 0.9
    attached = root.cursor().execute("SELECT count(*) FROM duckdb_databases() WHERE NOT internal")
    assert attached.fetchone()[0] <= 3, "the replaced store is let go"


def test_replacing_under_reading_threads(store):
    tables, errors, stop = handmade.rows(), [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                assert store.feature(1).density in (0.05, 0.9)
                assert len(store.examples(1)) == 8
            except Exception as error:  # told below
                errors.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(5):
        tables["feature"][1]["density"] = (0.05, 0.9)[n % 2]
        handmade.write(store.path, tables)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_path_with_quotes_is_only_a_path(tmp_path, root):
    path = tmp_path / 'it\'s; DROP "x"' / "features.duckdb"
    handmade.write(path)
    assert FeatureStore(root, path).n_features == 6


# -- stores that cannot be read


def test_missing_store(tmp_path, root):
    with pytest.raises(StoreError, match=r"no store at .*gone\.duckdb"):
        FeatureStore(root, tmp_path / "gone.duckdb").meta  # noqa: B018
    assert list(tmp_path.iterdir()) == [], "asking must not create it"


@pytest.mark.parametrize("keep", [0, 100, 5000, 0.5])
def test_truncated_store(store, tmp_path, root, keep):
    whole = store.path.read_bytes()
    cut = tmp_path / "cut.duckdb"
    cut.write_bytes(whole[: int(keep * len(whole)) if keep == 0.5 else keep])
    with pytest.raises(
        StoreError, match=r"cut\.duckdb cannot be read as a DuckDB .* make it again"
    ):
        FeatureStore(root, cut).summary()


def test_damage_inside_is_found_when_it_is_read(tmp_path, root):
    tables = handmade.rows()
    tables["doc"][0]["ids"] = np.random.default_rng(0).integers(0, 5, 2_000_000).tolist()
    path = tmp_path / "features.duckdb"
    handmade.write(path, tables)
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 4096] = os.urandom(4096)
    path.write_bytes(whole)
    with pytest.raises(StoreError, match="make it again"):
        FeatureStore(root, path).examples(1)


def test_something_else_than_a_store(tmp_path, root):
    text, other = tmp_path / "text.duckdb", tmp_path / "other.duckdb"
    text.write_text("not a database " * 1000)
    with duckdb.connect(str(other)) as con:
        con.execute("CREATE TABLE t AS SELECT 1 AS a")
    for path in (text, other):
        with pytest.raises(StoreError, match="make it again"):
            FeatureStore(root, path).meta  # noqa: B018
    assert root.cursor().execute("SELECT 1").fetchone() == (1,), "the root lives on"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("5", "has schema 5, this program knows up to 4: update"),
        ("3", "has schema 3, this program reads 4"),
        ('"x"', "no schema number"),
    ],
)
def test_other_schema_numbers_are_refused(store, root, number, message):
    with duckdb.connect(str(store.path)) as con:
        con.execute("UPDATE meta SET value = ? WHERE key = 'schema'", [number])
    for _ in range(2):  # the second time nothing may be left attached of the first
        with pytest.raises(StoreError, match=message):
            store.meta  # noqa: B018


def test_store_held_by_another_process_names_it(store):
    code = (
        "import duckdb, sys; con = duckdb.connect(sys.argv[1]); con.execute('SELECT 1');"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(store.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(StoreBusy) as busy:
            store.meta  # noqa: B018
        assert f"held by process {holder.pid}" in str(busy.value)
        assert "import duckdb" in str(busy.value), "the holder's command line"
    finally:
        holder.communicate()
    assert store.n_features == 6, "free again once the holder has ended"


def test_two_processes_may_read(store):
    store.meta  # noqa: B018
    code = "import duckdb, sys; print(duckdb.connect(sys.argv[1], read_only=True).sql('FROM meta'))"
    subprocess.run([sys.executable, "-c", code, str(store.path)], check=True, capture_output=True)
    assert store.n_features == 6


def test_every_instance_has_its_limits(tmp_path, root):
    con = schema.connect(tmp_path / "x.duckdb", memory_limit="300MB", threads=1)
    ask = """SELECT current_setting('memory_limit'), current_setting('threads'),
                    current_setting('temp_directory')"""
    assert con.execute(ask).fetchone() == ("286.1 MiB", 1, f"{tmp_path / 'x.duckdb'}.tmp")
    con.close()
    limits = root.cursor().execute(ask).fetchone()
    assert limits[:2] == ("953.6 MiB", 1) and limits[2].endswith(f"duckdb-{os.getpid()}")

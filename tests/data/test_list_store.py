"""The feature list with what people wrote, with words in examples, as points and as a file."""

from __future__ import annotations

import io
import threading
from dataclasses import replace

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest

from data import list_store, text_search_store
from data.errors import StoreError
from data.features_store import FeatureStore
from data.lab import Lab
from data.marks_store import LabMarks
from data.recent import Recent
from data.records import FeatureFilter as Filter
from data.schema import open_root
from data.windows import bounds
from tests.data import handmade

# Tokens: 1 " The", 2 "ÉT", 3 half an emoji, 4 "100%". Top examples: feature 1 shows tokens 2 3 4 1
# and 4 3 2 1, feature 2 tokens 2 2, feature 3 tokens 3 2 (tests/data/handmade.py).


@pytest.fixture
def root():
    opened = open_root(threads=1)
    yield opened
    opened.close()


@pytest.fixture
def lab(root, tmp_path) -> Lab:
    return Lab(root, tmp_path / "lab.jsonl", tmp_path / "lab.duckdb")


@pytest.fixture
def store(root, tmp_path, lab) -> FeatureStore:
    handmade.write(tmp_path / "features.duckdb")
    handmade.write_run(tmp_path / "results.duckdb")
    marks = LabMarks(root, lab, "hand")
    return FeatureStore(root, tmp_path / "features.duckdb", tmp_path / "results.duckdb", marks)


def kept(store: FeatureStore, **bounds) -> list[int]:
    filter = Filter(**bounds)
    rows, count = store.rows(filter)
    assert count == len(rows) and store.features(filter).tolist() == [r.feature for r in rows]
    return [row.feature for row in rows]


# ------------------------------------------------------------------ bounds


def test_both_ends_of_every_range(store):
    assert kept(store, max_max=2.5) == [2, 4]
    assert kept(store, max_min=2.5, max_max=3.0) == [1, 2]
    assert kept(store, score_max=0.8) == [1, 2] and kept(store, score_max=0.5) == [1]
    assert kept(store, score_min=0.3, score_max=0.75) == [2]


def test_a_token_by_a_part_of_it_and_as_a_whole(store):
    assert kept(store, peak="the") == [1], "capitals do not matter"
    assert kept(store, peak='" The"') == [1]
    assert kept(store, peak='"The"') == [], "the whole token begins with a space"
    assert kept(store, peak="%") == [4], "no sign is a wildcard"
    assert kept(store, peak='""') == []


def test_tokens_it_promotes_are_all_of_its_strongest(store, root):
    """Not only the one that the table shows."""
    with root.reading(store.path) as (cursor, alias):
        rows = cursor.execute(f"SELECT feature, top_ids FROM {alias}.logit WHERE scaled").fetchall()
    for token in handmade.TOKENS:
        text = token["bytes"].decode("utf-8", "replace").lower()
        expected = sorted(feature for feature, ids in rows if token["id"] in ids)
        assert kept(store, raised=text) == expected, text


# ------------------------------------------------------------------ words in examples


def test_words_in_the_strongest_examples(store):
    assert kept(store, example="ÉT") == [1, 2, 3]
    assert kept(store, example="Ét thE") == [1], "over the edge of a token, whatever the capitals"
    assert kept(store, example="étét") == [2], "also of letters beyond A to Z"
    assert kept(store, example="ÉT The") == [1], "in one document"
    assert kept(store, example="nowhere") == []


def test_a_word_must_stand_whole_in_what_an_example_shows(store):
    """Feature 3 shows tokens 1 and 2 of document 1, "\\xf0\\x9f ÉT"; " The" is beyond."""
    assert kept(store, example="ÉT") == [1, 2, 3]
    assert kept(store, example="ÉT The", density_max=0.01) == []


def test_words_do_not_reach_over_the_end_of_a_document(store):
    assert kept(store, example="TheÉTÉTÉT") == [], "document 1 ends with The, document 2 begins ÉT"


def test_one_letter_is_refused(store):
    with pytest.raises(StoreError, match="at least two"):
        store.rows(Filter(example="e"))


def test_too_much_text_is_refused(store, monkeypatch):
    monkeypatch.setattr(text_search_store, "LARGEST", 17)
    with pytest.raises(StoreError, match="18 tokens.* up to 17: search labels"):
        store.rows(Filter(example="the"))


@pytest.mark.parametrize("width", [1, 2, 3, 16])
def test_search_agrees_with_plain_python(root, tmp_path, monkeypatch, width):
    """Words of any length in random documents, in blocks shorter than them."""
    monkeypatch.setattr(text_search_store, "WIDTH", width)
    rng = np.random.default_rng(5)
    tables = handmade.rows()
    words = [b"a", b"b", b"ab", b"ba", b" a"]
    for token, word in zip(tables["token"], words, strict=True):
        token["bytes"] = word
    empty = {"doc": 3, "name": "d.txt", "split": "train", "use": "score", "ids": []}
    tables["doc"].insert(3, {**tables["doc"][2], **empty, "n_tokens": 0})
    for doc in tables["doc"]:
        doc["ids"] = rng.integers(0, 5, len(doc["ids"])).tolist()
    handmade.write(tmp_path / "features.duckdb", tables)
    store = FeatureStore(root, tmp_path / "features.duckdb")
    texts = {doc["doc"]: doc["ids"] for doc in tables["doc"]}
    shown: dict[int, list[bytes]] = {}
    for row in tables["example"]:
        if row["kind"] == "top":
            low, high = bounds(row["length"], row["peak"], width)
            ids = texts[row["doc"]][row["start"] + low : row["start"] + high]
            shown.setdefault(row["feature"], []).append(b"".join(words[i] for i in ids))
    monkeypatch.setattr(text_search_store, "BLOCK", 3)
    for length in (2, 3, 4):
        for at in range(3**length):
            wanted = "".join("ab "[at // 3**i % 3] for i in range(length))
            expected = [f for f, some in shown.items() if any(wanted.encode() in s for s in some)]
            assert kept(store, example=wanted) == sorted(expected), wanted


# ------------------------------------------------------------------ what people wrote


def test_tags_bookmarks_and_labels_are_seen_at_once(store, lab):
    assert kept(store, tag="odd") == [] and kept(store, bookmarked=True) == []
    assert kept(store, bookmarked=False) == [0, 1, 2, 3, 4, 5]
    lab.tag("hand", [3, 5], "odd", who="ada")
    lab.tag("other", [1], "odd", who="ada")
    lab.bookmark("hand", [4], True, who="ada")
    assert kept(store, tag="odd") == [3, 5], "those of another SAE are not"
    assert kept(store, bookmarked=True) == [4] and kept(store, bookmarked=False) == [0, 1, 2, 3, 5]
    lab.untag("hand", 3, "odd", who="ada")
    assert kept(store, tag="odd") == [5]
    lab.undo(who="ada")
    assert kept(store, tag="odd") == [3, 5]


def test_a_label_of_a_person_is_searched_beside_the_judges(store, lab):
    assert kept(store, text="accents") == [2]
    lab.label("hand", 2, "French capitals", who="ada")
    lab.label("hand", 5, "Nothing, yet accented", who="ada")
    assert kept(store, text="FRENCH") == [2] and kept(store, text="accent") == [2, 5]
    assert store.marks_of([2, 3])[2].label == "French capitals" and 3 not in store.marks_of([2, 3])


def test_sorting_by_what_people_wrote(store, lab):
    lab.tag("hand", [4], "a", who="ada")
    lab.tag("hand", [1, 3], "b", who="ada")
    lab.bookmark("hand", [3, 5], True, who="ada")
    assert kept(store, sort="tags") == [4, 1, 3, 0, 2, 5]
    assert kept(store, sort="tags", descending=True) == [1, 3, 4, 0, 2, 5]
    assert kept(store, sort="bookmarked", descending=True) == [3, 5, 0, 1, 2, 4]
    lab.label("hand", 0, "zebra", who="ada")
    lab.label("hand", 5, "Aardvark", who="ada")
    assert kept(store, sort="label") == [5, 1, 2, 0, 3, 4], "among the judge's"


def test_a_store_without_a_lab_knows_no_marks(root, store):
    bare = FeatureStore(root, store.path)
    assert kept(bare, tag="odd") == [] and kept(bare, bookmarked=False) == [0, 1, 2, 3, 4, 5]
    assert kept(bare, sort="tags") == [0, 1, 2, 3, 4, 5] and bare.marks_of([1]) == {}


def test_neighbours_honour_every_bound(store, lab):
    lab.tag("hand", [1, 3, 4], "odd", who="ada")
    filter = Filter(tag="odd", sort="max", descending=True)
    assert store.features(filter).tolist() == [3, 1, 4]
    assert store.neighbours(filter, 1) == (3, 4)
    lab.untag("hand", 3, "odd", who="ada")
    assert store.neighbours(filter, 1) == (None, 4) and store.neighbours(filter, 3) == (None, None)
    assert store.neighbours(Filter(example="ÉT"), 2) == (1, 3)
    assert store.neighbours(filter, 99) == (None, None)


def test_lists_are_kept_for_pages_but_not_for_other_filters(store, lab, monkeypatch):
    made = []
    kept_by = list_store._kept
    monkeypatch.setattr(list_store, "_kept", lambda c, f: made.append(f) or kept_by(c, f))
    filter = Filter(sort="max", page_size=2)
    for page in (1, 2, 3):
        store.rows(replace(filter, page=page, columns=("label",), plot="none"))
    lab.tag("hand", [3], "odd", who="ada")
    store.neighbours(filter, 1)
    assert len(made) == 1, "a tag changes nothing for a filter that does not ask for one"
    store.rows(replace(filter, alive=True))
    assert len(made) == 2


def test_many_at_once_see_their_own_lists(store, lab):
    """Readers of different filters beside a writer; in the end all see what was written last."""
    found: dict[int, list[int]] = {}
    failed: list[Exception] = []

    def read(at: int) -> None:
        try:
            for _ in range(12):
                assert kept(store, feature=at % 6) == [at % 6]
                found[at] = store.features(Filter(tag=f"tag {at % 3}")).tolist()
        except Exception as error:
            failed.append(error)

    readers = [threading.Thread(target=read, args=(at,)) for at in range(9)]
    for thread in readers:
        thread.start()
    for feature in range(6):
        lab.tag("hand", [feature], f"tag {feature % 3}", who="ada")
    for thread in readers:
        thread.join()
    assert not failed
    assert [kept(store, tag=f"tag {n}") for n in range(3)] == [[0, 3], [1, 4], [2, 5]]
    assert all({*found[at]} <= {at % 3, at % 3 + 3} for at in range(9))


def test_only_the_last_few_results_are_kept():
    recent, made = Recent(2), []

    def ask(key: int) -> int:
        return recent.get(key, lambda: made.append(key) or key)

    assert [ask(key) for key in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert made == [1, 2, 3, 2], "the one not asked for longest goes"


# ------------------------------------------------------------------ one of them, points, files


def test_a_random_feature_of_the_list_fires(store):
    drawn = {store.random_feature(seed, Filter(density_max=0.05)) for seed in range(40)}
    assert drawn == {1, 3, 4}
    assert {store.random_feature(seed, Filter(alive=False)) for seed in range(40)} == {0, 5}
    with pytest.raises(StoreError, match="fits this filter"):
        store.random_feature(0, Filter(feature=0))


def test_rows_of_given_features_keep_their_order(store):
    assert [row.feature for row in store.rows_of([4, 99, 1])] == [4, 1]
    assert store.rows_of([]) == []


def test_points_know_what_is_inside(store):
    points = store.points(Filter(density_min=0.05, max_min=2.0, alive=True), "max", 100)
    found = dict(zip(points.feature.tolist(), points.inside.tolist(), strict=True))
    assert found == {1: True, 2: True, 3: False, 4: False} and points.total == 4
    assert points.value[points.feature == 3] == 9.0
    scored = store.points(Filter(), "score", 100)
    assert scored.feature.tolist() == [1, 2] and scored.value.tolist() == [0.25, 0.75]


def test_points_are_thinned_outside_first(store):
    points = store.points(Filter(max_min=3.0), "max", 3)
    assert points.total == 4 and len(points.feature) <= 3
    assert set(points.feature[points.inside].tolist()) == {1, 3}
    assert len(store.points(Filter(), "max", 1).feature) == 1


def test_a_file_has_every_row_and_column(store, lab):
    lab.tag("hand", [3, 2], "odd; or not", who="ada")
    lab.tag("hand", [3], "=1+1", who="ada")
    lab.label("hand", 3, "=HYPERLINK(1)", who="ada")
    filter = Filter(sort="density", descending=True, page=7, page_size=1)
    table = pyarrow.parquet.read_table(io.BytesIO(store.exported(filter, "parquet")))
    assert table["feature"].to_pylist() == store.features(filter).tolist() == [2, 1, 4, 3, 0, 5]
    by_feature = {row["feature"]: row for row in table.to_pylist()}
    assert by_feature[3]["label"] == "=HYPERLINK(1)"
    assert by_feature[3]["tags"] == ["=1+1", "odd; or not"] and by_feature[0]["tags"] == []
    assert by_feature[0]["max"] is None and by_feature[2]["score"] == 0.75
    assert by_feature[3]["peak_token"] == "\\xf0\\x9f" and by_feature[2]["peak_token"] == "ÉT"
    for row in store.rows(Filter())[0]:
        assert by_feature[row.feature]["density"] == row.density
        assert by_feature[row.feature]["fires"] == row.fires


def test_no_text_of_a_csv_is_a_formula(store, lab):
    for feature, text in enumerate(("=1+1", "+1", "-1", "@a", "a=1", "'quoted', \"so\"")):
        lab.label("hand", feature, text, who="ada")
    lab.tag("hand", [0], "=cmd", who="ada")
    read = pyarrow.csv.read_csv(io.BytesIO(store.exported(Filter(), "csv")))
    labels = read["label"].to_pylist()
    assert labels == ["'=1+1", "'+1", "'-1", "'@a", "a=1", "'quoted', \"so\""]
    assert read["tags"].to_pylist()[0] == "'=cmd"
    with pytest.raises(StoreError, match="csv, parquet"):
        store.exported(Filter(), "xlsx")
    empty = store.exported(Filter(text="nothing has this"), "csv")
    assert empty.count(b"\n") == 1, "the headings only"

"""Tables out of the store and back: what is read from each format is what was put in."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data import schema
from data.errors import StoreError, WorkspaceError
from data.export_store import FORMATS, write_tables
from data.features_store import write_features
from tests.data import handmade


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("it's a store") / "features.duckdb"  # a quote in its name
    handmade.write(path)
    return path


@pytest.fixture
def export(store, tmp_path):
    """export(format, features) -> (folder, rows of each table)."""

    def make(format: str, features: list[int] | None = None, path: Path = store):
        folder = tmp_path / f"{format} 'quoted'"
        folder.mkdir(exist_ok=True)
        root = schema.open_root()
        try:
            return folder, write_tables(root, path, folder, format, features)
        finally:
            root.close()

    return make


def _back(folder: Path, table: str, format: str) -> list[dict]:
    """The rows of an exported table, in the types of Python."""
    path = folder / f"{table}.{format}"
    if format == "parquet":
        return pq.read_table(path).to_pylist()
    if format == "jsonl":
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    else:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [_parsed(row, table) for row in csv.DictReader(file)]
    for row in rows:
        if "bytes" in row:
            row["bytes"] = bytes.fromhex(row["bytes"])
    return rows


def _parsed(row: dict[str, str], table: str) -> dict:
    """CSV knows text only: numbers, lists and truth values by the column's type."""
    types = {field.name: str(field.type) for field in handmade.arrow_schema(table)}
    out = {}
    for name, text in row.items():
        if types[name].startswith("list") or types[name] == "bool":
            out[name] = json.loads(text)
        elif types[name] in ("string", "binary"):
            out[name] = text
        else:
            kind = float if types[name] in ("float", "double") else int
            out[name] = kind(text) if text else None
    return out


def _equal(found: list[dict], expected: list[dict]) -> bool:
    """Floats as close as float32 is."""
    assert [set(row) for row in found] == [set(row) for row in expected]
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            if isinstance(value, list):
                assert one[name] == pytest.approx(value, rel=1e-6), name
            elif isinstance(value, float):
                assert one[name] == pytest.approx(value, rel=1e-6), name
            else:
                assert one[name] == value and type(one[name]) is type(value), name
    return True


def _sorted(tables: dict[str, list[dict]]) -> dict[str, list[dict]]:
    found = {}
    for name, rows in tables.items():
        key = schema.KEYS[name].split(", ")
        found[name] = sorted(rows, key=lambda row, key=key: [row[column] for column in key])
    return found


@pytest.mark.parametrize("format", FORMATS)
def test_every_row_comes_back_in_the_order_of_its_key(export, format):
    folder, counts = export(format)
    expected = _sorted(handmade.rows())
    for table, rows in expected.items():
        assert _equal(_back(folder, table, format), rows), table
        assert counts[table] == len(rows)
    files = {f"{table}.{format}" for table in expected} | {"meta.json"}
    assert {path.name for path in folder.iterdir()} == files


@pytest.mark.parametrize("format", FORMATS)
def test_some_features_bring_their_documents_and_all_tokens(export, format):
    folder, counts = export(format, [3, 2])
    assert counts == {"token": 5, "doc": 2, "feature": 2, "logit": 4, "band": 8, "example": 2}
    assert [row["feature"] for row in _back(folder, "feature", format)] == [2, 3]
    assert {row["doc"] for row in _back(folder, "doc", format)} == {1, 2}
    about = json.loads((folder / "meta.json").read_text("utf-8"))["export"]
    assert about["features"] == 2 and about["rows"] == counts


def test_a_feature_without_examples_has_no_documents(export):
    folder, counts = export("parquet", [5])
    assert counts == {"token": 5, "doc": 0, "feature": 1, "logit": 2, "band": 0, "example": 0}
    assert _back(folder, "example", "parquet") == []


def test_meta_is_the_stores_and_says_how_bytes_are_written(export):
    for format, how in (("csv", "hexadecimal"), ("parquet", "as they are")):
        folder, _ = export(format)
        about = json.loads((folder / "meta.json").read_text("utf-8"))
        assert about["sae"] == "hand" and about["schema"] == schema.SCHEMA
        assert len(about["content_hash"]) == 64
        assert about["export"]["bytes"] == how and about["export"]["features"] == "all"


def test_null_and_the_empty_string_stay_apart(export):
    folder, _ = export("csv")
    lines = (folder / "example.csv").read_text("utf-8").splitlines()
    near = next(line for line in lines if ",near_miss,under," in line)
    assert ",,1," in near, "an inclusion that does not exist is nothing at all"
    assert '1,top,"",0,' in "\n".join(lines), "a part that is empty is an empty string"
    folder, _ = export("jsonl")
    dead = json.loads((folder / "feature.jsonl").read_text("utf-8").splitlines()[0])
    assert dead["max"] is None and dead["dead"] is True


def test_the_order_holds_when_there_are_many_rows(tmp_path, export):
    """Copying runs on several threads; rows come in key order all the same."""
    tables, many = handmade.rows(), 30_000
    doc, example = tables["doc"][0], tables["example"][0]
    tables["doc"] = [{**doc, "doc": i, "name": f"{i}.txt"} for i in range(many)]
    tables["example"] = [{**example, "rank": i, "doc": i} for i in range(many)]
    path = tmp_path / "many.duckdb"
    handmade.write(path, tables)
    folder, counts = export("parquet", [1], path)
    assert counts["doc"] == counts["example"] == many
    assert pq.read_table(folder / "doc.parquet")["doc"].to_pylist() == list(range(many))
    assert pq.read_table(folder / "example.parquet")["rank"].to_pylist() == list(range(many))


def test_text_of_any_kind_survives(tmp_path, export):
    names = ['a "quoted", name\nof two lines', "\u202e\u05d0 👩\u200d👧", "\x00null", "a,b;c\td"]
    tables = handmade.rows()
    for row, name in zip(tables["doc"], names, strict=True):
        row["name"] = name
    tables["token"][1]["bytes"], tables["token"][2]["bytes"] = b"\x00\xff,\"'\n", b""
    path = tmp_path / "odd.duckdb"
    handmade.write(path, tables)
    for format in FORMATS:
        folder, _ = export(format, None, path)
        assert [row["name"] for row in _back(folder, "doc", format)] == names, format
        assert _back(folder, "token", format) == tables["token"], format


def test_a_folder_that_cannot_be_written_is_told_from_a_damaged_store(tmp_path, store, export):
    folder = tmp_path / "csv 'quoted'"
    (folder / "doc.csv").mkdir(parents=True)
    with pytest.raises(WorkspaceError, match=r"doc\.csv cannot be written"):
        export("csv")
    broken = tmp_path / "broken.duckdb"
    data = bytearray(store.read_bytes())
    broken.write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError):
        export("parquet", None, broken)
    with pytest.raises(StoreError, match="no store at"):
        export("parquet", None, tmp_path / "none.duckdb")


def test_written_again_the_bytes_are_the_same(tmp_path, export):
    first, _ = export("jsonl")
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    again, _ = export("jsonl")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == before


def test_a_store_without_rows_gives_files_without_rows(tmp_path, export):
    path = tmp_path / "empty.duckdb"
    arrow = {name: handmade.arrow_schema(name).empty_table() for name in schema.FEATURES}
    write_features(path, handmade.META, arrow)
    for format in FORMATS:
        folder, counts = export(format, None, path)
        assert set(counts.values()) == {0}
        assert _back(folder, "example", format) == []

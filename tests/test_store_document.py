"""docs/STORE.md against a store: every query runs and gives rows, every column named is there, and
none is left out."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import duckdb
import pytest

from data import schema
from tests.data import handmade
from tests.ui import small_store

TEXT = (Path(__file__).resolve().parents[1] / "docs/STORE.md").read_text("utf-8")
QUERIES = re.findall(r"^```sql\n(.*?)^```", TEXT, re.S | re.M)
NAMED = re.findall(r"^\*\*(\d+)\. (.+?)\*\*", TEXT, re.M)
VIEWS = ("example_any", "example_explain", "example_calibrate", "example_score", "token_sample")


def described(text: str) -> dict[str, list[tuple[str, str]]]:
    """table -> (column, type) of the tables of columns under its heading."""
    found = {}
    for part in re.split(r"^### ", text, flags=re.M)[1:]:
        name = re.match(r"`(\w+)`", part)[1]
        body = part.split("\n## ")[0]
        found[name] = re.findall(r"^\| `(\w+)` \| (\S+) \|", body, re.M)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """features.duckdb and results.duckdb of the small workspace, side by side."""
    root = small_store.write_workspace(tmp_path_factory.mktemp("store") / "workspace")
    path = root / "saes/small/features.duckdb"
    small_store.write_store(path, l0_counts=[3, 40, 7], seed=1)
    shutil.copy(root / "autointerp/lexical-1/results.duckdb", path.parent)
    return path.parent


def _read(path: Path) -> duckdb.DuckDBPyConnection:
    """As the document says, on a DuckDB that can fetch nothing."""
    off = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    return duckdb.connect(str(path), read_only=True, config=off)


def run(query: str, path: Path, monkeypatch) -> list[tuple]:
    monkeypatch.chdir(path.parent)
    with _read(path) as con:
        return con.execute(query).fetchall()


def test_there_are_ten_numbered_queries():
    assert [number for number, _ in NAMED] == [str(n) for n in range(1, 11)]
    assert len(QUERIES) == 10


@pytest.mark.parametrize("number", range(10))
def test_the_query_gives_rows(folder, number, monkeypatch):
    rows = run(QUERIES[number], folder / "features.duckdb", monkeypatch)
    assert rows and any(value is not None for value in rows[0]), NAMED[number]


def test_the_exported_file_is_parquet(folder, monkeypatch):
    (count,) = run(QUERIES[9], folder / "features.duckdb", monkeypatch)[0]
    with _read(folder / "features.duckdb") as con:
        read = con.execute("SELECT count(*), count(feature) FROM 'statistics.parquet'").fetchone()
    assert read == (count, count) == (64, 64)


def test_every_table_and_column_is_described():
    con = schema.connect()
    schema.create_features(con)
    tables = described(TEXT)
    assert set(tables) == {*schema.FEATURES, "meta"}
    for table, columns in tables.items():
        there = [(row[0], row[1]) for row in con.execute(f"DESCRIBE {table}").fetchall()]
        assert columns == there, table


def test_every_view_is_described():
    con = schema.connect()
    schema.create_features(con)
    there = {row[0] for row in con.execute("SELECT view_name FROM duckdb_views()").fetchall()}
    assert set(VIEWS) <= there
    for view in VIEWS:
        line = re.search(rf"^\| `{view}` \| (.+) \|$", TEXT, re.M)[1]
        columns = {row[0] for row in con.execute(f"DESCRIBE {view}").fetchall()}
        assert set(re.findall(r"`(\w+)`", line)) - {"example", "active", "random"} <= columns, view
    assert {row[0] for row in con.execute("DESCRIBE token_sample").fetchall()} == set(
        re.findall(r"`(\w+)`", re.search(r"`token_sample` \|(.+)", TEXT)[1])
    ) - {"active", "random"}


def test_columns_and_keys_named_in_prose_exist():
    """`table.column`, and bare words in backticks: columns, tables, views, values or keys."""
    from tests.test_docs import REPOSITORY

    con = schema.connect()
    schema.create_features(con)
    columns = {t: {r[0] for r in con.execute(f"DESCRIBE {t}").fetchall()} for t in schema.FEATURES}
    meta = _keys_of_meta(REPOSITORY)
    for table, column in re.findall(r"`(\w+)\.(\w+)`", re.sub(r"```.*?```", "", TEXT, flags=re.S)):
        if table == "lab":  # the names of two files
            assert column in ("jsonl", "duckdb")
            continue
        known = meta if table == "meta" else columns[table]
        assert column in known, f"{table}.{column}"
    prose = re.search(r"Everything needed to make.*?Two stores", TEXT, re.S)[0]
    assert set(re.findall(r"`(\w+)`", prose)) <= meta


def _keys_of_meta(repository: Path) -> set[str]:
    """What the harvest writes into meta, as its source has it."""
    source = (repository / "commands/harvest.py").read_text("utf-8")
    return set(re.findall(r'"(\w+)":', source)) | {"schema", "content_hash"}


def test_estimates_by_hand(tmp_path, monkeypatch):
    """Queries 4 and 5 where they can be worked out with pencil and paper."""
    tables = handmade.rows()
    tables["feature"][2] |= {"fires": 12, "density": 0.012, "peak_token": 1}
    sample = [  # kind, rank, doc, start, peak, max, inclusion, copies
        ("active", 0, 0, 0, 0, 2.0, 0.25, 1),  # token 1; weight 4
        ("active", 1, 0, 0, 1, 0.5, 0.25, 1),  # token 2; weight 4
        ("active", 2, 7, 0, 1, 3.0, 0.25, 2),  # token 1; weight 8
        ("random", 0, 1, 0, 3, 0.0, 0.01, 1),  # token 1; weight 100
        ("random", 1, 1, 0, 0, 0.0, 0.01, 3),  # token 4; weight 300
    ]
    tables["example"] = [
        {
            "feature": 2, "kind": kind, "part": "", "rank": rank, "doc": doc, "start": start,
            "length": 2, "peak": peak, "max": value, "pre": value, "inclusion": inclusion,
            "copies": copies, "act_index": [peak] if value else [],
            "act_value": [value] if value else [],
        }
        for kind, rank, doc, start, peak, value, inclusion, copies in sample
    ]  # fmt: skip
    path = tmp_path / "features.duckdb"
    handmade.write(path, tables)
    ((unbiased, less_noisy, effective),) = run(QUERIES[3], path, monkeypatch)
    assert unbiased == pytest.approx((4 + 8) / 1000)
    assert less_noisy == pytest.approx(0.012 * 12 / 16)
    assert effective == pytest.approx(16**2 / (16 + 16 + 64))
    ((precision, recall, tokens),) = run(QUERIES[4], path, monkeypatch)
    fires, silent = 12 * 12 / 16, 988 * 100 / 400  # firing and silent tokens that meet the rule
    assert precision == pytest.approx(fires / (fires + silent))
    assert recall == pytest.approx(12 / 16)
    parts = [12 * 4 / 16, 12 * 8 / 16, silent]
    assert tokens == pytest.approx(sum(parts) ** 2 / sum(part**2 for part in parts))


def test_the_text_of_an_example_by_hand(tmp_path, monkeypatch):
    path = tmp_path / "features.duckdb"
    handmade.write(path)
    rows = run(QUERIES[2], path, monkeypatch)
    assert rows == [(0, 2.5, "c.txt", "ÉTÉT")]
    broken = run(QUERIES[2].replace("feature = 2", "feature = 3"), path, monkeypatch)
    assert broken == [(0, 9.0, "b.txt", "\\xF0\\x9F\\xC3\\x89T")], "bytes that are no text"


def test_planted_faults_are_found():
    text = TEXT.replace("| `fires` | BIGINT |", "| `shots` | BIGINT |")
    assert described(text)["feature"] != described(TEXT)["feature"]
    assert described("### `a`\n| `b` | INTEGER[] | c |\n") == {"a": [("b", "INTEGER[]")]}

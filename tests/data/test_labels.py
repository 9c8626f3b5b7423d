"""Labelled documents from every kind of source, and the refusals."""

from __future__ import annotations

import csv
import json

import pytest

from data.errors import TextError
from data.labels import labelled

PAIRS = [("good text", "yes"), ('bad, very\n"bad" text', "no"), ("\u00e9t\u00e9", "yes")]


def _jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _csv(path, rows, encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file)
        writer.writerows(rows)
    return str(path)


def _pairs(source, *fields):
    documents, labels = labelled(source, *fields)
    return [(document.text, label) for document, label in zip(documents, labels, strict=True)]


def test_jsonl(tmp_path):
    rows = [{"text": text, "label": label} for text, label in PAIRS]
    assert _pairs(_jsonl(tmp_path / "a.jsonl", rows)) == PAIRS
    rows = [{"body": text, "kind": 3, "other": None} for text, _ in PAIRS]
    assert _pairs(_jsonl(tmp_path / "b.jsonl", rows), "body", "kind") == [
        (text, "3") for text, _ in PAIRS
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv(tmp_path, encoding):
    long = ("word " * 60_000, "no")  # longer than the csv module takes by itself
    rows = [("text", "label"), *PAIRS, long]
    before = csv.field_size_limit()
    assert _pairs(_csv(tmp_path / "a.csv", rows, encoding)) == [*PAIRS, long]
    assert csv.field_size_limit() == before


def test_a_folder_of_folders(tmp_path):
    for label, name, text in (("b", "2.txt", "two"), ("a", "deep/1.md", "one"), ("b", "3.py", "3")):
        path = tmp_path / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "b" / "image.png").write_bytes(b"\x89")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.txt").write_text("hidden")
    (tmp_path / "readme.txt").write_text("no label")
    assert _pairs(str(tmp_path)) == [("one", "a"), ("two", "b"), ("3", "b")]


def test_empty_documents_are_left_out(tmp_path):
    rows = [{"text": "  \n", "label": 1}, {"text": "x", "label": True}]
    assert _pairs(_jsonl(tmp_path / "a.jsonl", rows)) == [("x", "True")]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "x"}], "line 1 has no label in 'label'"),
        ([{"text": "x", "label": 1}, {"label": 1}], "line 2 has no text in 'text'"),
        ([{"text": "x", "label": 0.5}], "text or a whole number"),
        ([{"text": "x", "label": " "}], "no label"),
        (["x"], "one of str"),
        ([{"text": " ", "label": 1}], "every document is empty"),
    ],
)
def test_rows_that_are_refused(rows, says, tmp_path):
    with pytest.raises(TextError, match=says):
        labelled(_jsonl(tmp_path / "a.jsonl", rows))


def test_sources_that_are_refused(tmp_path):
    for source in ("", "/no/such", str(tmp_path / "none.jsonl")):
        with pytest.raises(TextError, match="no labelled text at"):
            labelled(source)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(TextError, match="give a .jsonl or .csv file, or a folder"):
        labelled(str(tmp_path / "a.txt"))
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(TextError, match="line 1 is not JSON"):
        labelled(str(tmp_path / "a.jsonl"))
    (tmp_path / "a.csv").write_bytes(b"text,label\n\xff,1\n")
    with pytest.raises(TextError, match="not UTF-8"):
        labelled(str(tmp_path / "a.csv"))
    with pytest.raises(TextError, match="no text in 'text'.*one of a, b"):
        labelled(_csv(tmp_path / "b.csv", [("a", "b"), ("x", "y")]))
    (tmp_path / "c.csv").write_text('text,label\n"x,1\n')
    with pytest.raises(TextError, match="cannot be read as CSV"):
        labelled(str(tmp_path / "c.csv"))

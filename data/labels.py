"""Labelled documents, for probing.

In:  a .jsonl or .csv file with a text and a label column, or a folder with one subfolder a label.
Out: documents and the label of each, in a fixed order.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from data.errors import TextError
from data.records import Document
from data.text import encodable

FOLDER_SUFFIXES = (".txt", ".md", ".py")


def labelled(
    source: str, text_field: str = "text", label_field: str = "label"
) -> tuple[list[Document], list[str]]:
    """The documents of `source` that hold any text, and their labels.

    Labels may be text, whole numbers or true and false; they are kept as text. Raises TextError
    for a source, column or label that is not there.
    """
    path = Path(source).expanduser()
    try:
        if source.strip() and path.is_dir():
            found = list(_folder(path))
        elif path.is_file() and path.suffix == ".jsonl":
            found = list(_jsonl(path, text_field, label_field))
        elif path.is_file() and path.suffix == ".csv":
            found = list(_csv(path, text_field, label_field))
        else:
            raise TextError(
                f"no labelled text at {source!r}: give a .jsonl or .csv file, or a folder with one "
                "subfolder a label"
            )
    except OSError as error:
        raise TextError(
            f"{error.filename or source!r} cannot be read: {error.strerror or error}"
        ) from None
    except UnicodeDecodeError:
        raise TextError(f"{source!r} is not UTF-8: convert the file first") from None
    found = [(document, label) for document, label in found if document.text.strip()]
    if not found:
        raise TextError(f"no labelled text in {source!r}: every document is empty")
    return [document for document, _ in found], [label for _, label in found]


def _folder(path: Path) -> Iterator[tuple[Document, str]]:
    for folder in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for file in sorted(p for p in folder.rglob("*") if p.suffix in FOLDER_SUFFIXES):
            text = file.read_text(encoding="utf-8", errors="replace")
            yield _document(file.relative_to(path).as_posix(), text), folder.name


def _jsonl(path: Path, text_field: str, label_field: str) -> Iterator[tuple[Document, str]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise TextError(f"{path} line {number} is not JSON: {error.msg}") from None
                yield _labelled_row(row, f"{path} line {number}", number, text_field, label_field)


def _csv(path: Path, text_field: str, label_field: str) -> Iterator[tuple[Document, str]]:
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # documents are longer than 128 KiB
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines, strict=True), start=1):
                yield _labelled_row(row, f"{path} row {number}", number, text_field, label_field)
    except csv.Error as error:
        raise TextError(f"{path} cannot be read as CSV: {error}") from None
    finally:
        csv.field_size_limit(before)


def _labelled_row(
    row: object, where: str, number: int, text_field: str, label_field: str
) -> tuple[Document, str]:
    seen = ", ".join(str(key) for key in row) if isinstance(row, dict) else type(row).__name__
    if not isinstance(row, dict) or not isinstance(row.get(text_field), str):
        raise TextError(f"{where} has no text in {text_field!r}: pass --text-field, one of {seen}")
    label = row.get(label_field)
    if not isinstance(label, (str, int)) or not str(label).strip():
        raise TextError(
            f"{where} has no label in {label_field!r} (text or a whole number): pass "
            f"--label-field, one of {seen}"
        )
    return _document(f"{number}", row[text_field]), encodable(str(label).strip())


def _document(name: str, text: str) -> Document:
    return Document(encodable(name), encodable(text))

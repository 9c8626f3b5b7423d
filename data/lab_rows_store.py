"""A line of the lab's journal as rows of its index.

In:  entries of the journal, a cursor in a transaction on the tables of schema.LAB.
Out: the tables brought up to the last entry, by the same rules for one entry and for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from data import lab_events, schema
from data.journal import Entry
from data.lab_events import earlier

MARKS = ("bookmark", "tag", "note", "label")  # kinds that make up a Mark
CHANGE_ARROW = pa.schema(
    [
        ("line", pa.int32()), ("item", pa.int32()), ("action", pa.string()),
        ("writer", pa.string()), ("written", pa.string()), ("kind", pa.string()),
        ("sae", pa.string()), ("feature", pa.int32()), ("name", pa.string()),
        ("value", pa.string()), ("who", pa.string()), ("time", pa.string()), ("shown", pa.bool_()),
    ]
)  # fmt: skip
MARK_ARROW = pa.schema(
    [
        ("sae", pa.string()), ("feature", pa.int32()), ("bookmarked", pa.bool_()),
        ("tags", pa.list_(pa.string())), ("note", pa.string()), ("label", pa.string()),
        ("changed", pa.string()),
    ]
)  # fmt: skip

FEW = 5
NEWEST_LAST = f"""SELECT sae, feature, kind, name, value, time FROM live
    WHERE kind IN {MARKS} AND {{which}} ORDER BY shown, line, item"""
THIS = "sae = ? AND feature = ?"
THESE = "sae = ? AND list_contains(?::INTEGER[], feature)"
EVERY = 1_000  # features; from so many on, all marks are made anew


def take(cursor: Any, entries: Iterable[Entry]) -> None:
    """Takes entries up, in order."""
    everything, touched = False, set()
    for rows, undone, sae in _batches(entries):
        _insert(cursor, "change", CHANGE_ARROW, rows)
        touched |= _touched(cursor, rows, undone)
        everything |= sae is not None and _meet(cursor, *sae)
    _sum_up(cursor, None if everything or len(touched) > EVERY else touched)


def _batches(
    entries: Iterable[Entry],
) -> Iterator[tuple[list[dict], list[tuple[int, int]], tuple[str, str] | None]]:
    """(rows of `change`, rows of `undone`, an SAE met after them) until the entries end."""
    rows, undone = [], []
    for entry in entries:
        event = entry.event
        if event["kind"] == "undo":
            undone.append((event["line"], entry.line))
        elif event["kind"] == "sae":
            yield rows, undone, (event["sae"], event["weights"])
            rows, undone = [], []
        else:
            rows += lab_events.rows(entry)
    yield rows, undone, None


def _insert(cursor: Any, table: str, columns: pa.Schema, rows: list[dict]) -> None:
    if len(rows) > FEW:
        schema.load(cursor, {table: [pa.Table.from_pylist(rows, schema=columns)]})
    elif rows:  # quicker than by way of Arrow
        marks = ", ".join("?" for _ in columns)
        values = [[row[name] for name in columns.names] for row in rows]
        cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", values)


def _touched(cursor: Any, rows: list[dict], undone: list[tuple[int, int]]) -> set[tuple[str, int]]:
    """The features whose marks these rows may change; takes the undone lines up."""
    touched = {(row["sae"], row["feature"]) for row in rows if row["kind"] in MARKS}
    if undone:
        cursor.executemany("INSERT INTO undone VALUES (?, ?)", undone)
        found = cursor.execute(
            f"""SELECT DISTINCT sae, feature FROM change
                WHERE kind IN {MARKS} AND list_contains(?::INTEGER[], line)""",
            [[line for line, _ in undone]],
        )
        touched |= set(found.fetchall())
    return touched


def _sum_up(cursor: Any, touched: set[tuple[str, int]] | None) -> None:
    """Makes the marks of these features anew; None: all marks."""
    several: dict[str | None, list[int]] = {} if touched is not None else {None: []}
    for sae, feature in touched or ():
        several.setdefault(sae, []).append(feature)
    for sae, features in several.items():
        which, values = ("TRUE", []) if sae is None else (THESE, [sae, features])
        if len(features) == 1:
            which, values = THIS, [sae, features[0]]
        cursor.execute(f"DELETE FROM mark WHERE {which}", values)
        rows = cursor.execute(NEWEST_LAST.format(which=which), values).fetchall()
        _insert(cursor, "mark", MARK_ARROW, _summed_up(rows))


def _summed_up(rows: Iterable[tuple[Any, ...]]) -> list[dict]:
    """Rows of `mark` from registers in the order of NEWEST_LAST: the last one of a key counts."""
    found: dict[tuple[str, int], dict[tuple[str, str | None], tuple[str | None, str]]] = {}
    for sae, feature, kind, name, value, time in rows:
        found.setdefault((sae, feature), {})[kind, name] = (value, time)
    marks = []
    for (sae, feature), registers in found.items():
        there = {
            key: (value, time) for key, (value, time) in registers.items() if value is not None
        }
        if there:
            text = {kind: value for (kind, _), (value, _) in there.items()}
            mark = {
                "sae": sae, "feature": feature, "bookmarked": "bookmark" in text,
                "tags": sorted(name for kind, name in there if kind == "tag"),
                "note": text.get("note"), "label": text.get("label"),
                "changed": max(time for _, time in there.values()),
            }  # fmt: skip
            marks.append(mark)
    return marks


def _meet(cursor: Any, sae: str, weights: str) -> bool:
    """Notes the weights under a name; whether they are others than before.

    If so, what was written of the earlier ones is filed under the name they get then, and what was
    written of these, should they be back, returns to the plain name.
    """
    known = cursor.execute("SELECT weights FROM known_sae WHERE sae = ?", [sae]).fetchone()
    cursor.execute("DELETE FROM known_sae WHERE sae = ?", [sae])
    cursor.execute("INSERT INTO known_sae VALUES (?, ?)", [sae, weights])
    if known is None or known[0] == weights:
        return False
    rename = "UPDATE change SET sae = ? WHERE sae = ?"
    cursor.execute(rename, [earlier(sae, known[0]), sae])
    cursor.execute(rename, [sae, earlier(sae, weights)])
    return True

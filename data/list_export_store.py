"""The features of a list as one file, to be opened elsewhere.

In:  the sources of a list (data/list_store.py), a FeatureFilter. Out: the bytes of a CSV or Parquet
     file, one row a feature in the order of the list, with what people wrote about it.

Tokens are given as text; bytes that are no UTF-8 become \\xNN. A text in CSV that a spreadsheet
would take for a formula gets an apostrophe before it. Parquet keeps texts, and tags as lists.
"""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from data.columns_store import SCORES, STATS, TOKENS, Columns
from data.errors import StoreError
from data.list_store import Source, listing
from data.records import FeatureFilter

FORMATS = ("csv", "parquet")
FORMULA = r"^[=+\-@\t\r]"  # how a formula begins, for one program or another


def exported(source: Source, filter: FeatureFilter, format: str) -> bytes:
    """The list as a file. Raises StoreError for a format there is not."""
    if format not in FORMATS:
        raise StoreError(f"no file of format {format!r}: choose from {', '.join(FORMATS)}")
    with listing(source, filter) as (columns, places):
        table = _table(columns, places)
    out = io.BytesIO()
    if format == "parquet":
        pa.parquet.write_table(table, out, compression="zstd")
    else:
        tags = pc.binary_join(table["tags"].combine_chunks(), "; ")
        table = table.set_column(table.column_names.index("tags"), "tags", tags)
        texts = [n for n, field in enumerate(table.schema) if field.type == pa.string()]
        for n in texts:
            table = table.set_column(n, table.column_names[n], _guarded(table.column(n)))
        pa.csv.write_csv(table, out)
    return out.getvalue()


def _table(columns: Columns, places: np.ndarray) -> pa.Table:
    """The rows at those places with every column of the list."""
    stats = columns.cursor.sql(
        f"SELECT {', '.join(STATS)} FROM {columns.store}.feature ORDER BY feature"
    ).to_arrow_table()
    found = {name: stats[name].take(places) for name in STATS}
    feature = found.pop("feature")
    about = {"feature": feature, "label": columns.labels().take(pa.array(places))}
    for name in SCORES:
        values = columns.number(name)[places]
        found[name] = pa.array(values, mask=np.isnan(values))
    for name in TOKENS:
        ids = columns.number(name)[places]
        found[name] = _token_texts(columns, ids)
    return pa.table({**about, **_written(columns, feature.to_pylist()), **found})


def _token_texts(columns: Columns, ids: np.ndarray) -> pa.Array:
    texts, raw = {}, columns.tokens()
    for token in np.unique(ids[~np.isnan(ids)]).astype(int).tolist():
        if token in raw:
            texts[float(token)] = raw[token][0].decode("utf-8", "backslashreplace")
    return pa.array([texts.get(token) for token in ids.tolist()], pa.string())


def _written(columns: Columns, features: list[int]) -> dict[str, pa.Array]:
    """What people wrote: bookmarks and tags."""
    marks = {} if columns.marks is None else columns.marks.of(features)
    return {
        "bookmarked": pa.array([f in marks and marks[f].bookmarked for f in features], pa.bool_()),
        "tags": pa.array(
            [list(marks[f].tags) if f in marks else [] for f in features], pa.list_(pa.string())
        ),
    }


def _guarded(texts: pa.ChunkedArray | pa.Array) -> pa.Array:
    risky = pc.match_substring_regex(texts, FORMULA)
    return pc.if_else(risky, pc.binary_join_element_wise("'", texts, ""), texts)

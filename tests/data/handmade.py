"""A store small enough to know by heart: 6 features, 5 tokens, 4 documents.

Out: Arrow tables for write_features, as rows that a test may change before they are written.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pyarrow as pa

from data import schema
from data.features_store import BANDS as PARTS
from data.features_store import write_features
from data.records import Explanation, Score
from data.runs_store import write_results

TOKENS = [
    {"id": 0, "bytes": b"<bos>", "special": True},
    {"id": 1, "bytes": b" The", "special": False},
    {"id": 2, "bytes": "ÉT".encode(), "special": False},
    {"id": 3, "bytes": b"\xf0\x9f", "special": False},  # half an emoji: no UTF-8
    {"id": 4, "bytes": b"100%", "special": False},
]
DOCS = [
    {"doc": 0, "name": "a.txt", "split": "train", "use": "explain", "ids": [1, 2, 3, 4, 1, 2]},
    {"doc": 1, "name": "b.txt", "split": "train", "use": "score", "ids": [4, 3, 2, 1]},
    {"doc": 2, "name": "c.txt", "split": "heldout", "use": "calibrate", "ids": [2, 2, 2]},
    {"doc": 7, "name": "it's.txt", "split": "heldout", "use": "explain", "ids": [1, 1, 4, 4, 3]},
]
# feature, fires, density, mean, max, theta, peak_token, peak_share
FEATURES = [
    (0, 0, 0.0, None, None, 0.1, None, None),
    (1, 50, 0.05, 1.0, 3.0, 0.2, 1, 0.5),
    (2, 500, 0.5, 2.0, 2.5, 0.2, 2, 0.9),
    (3, 7, 0.007, 0.5, 9.0, 0.3, 3, 1.0),
    (4, 50, 0.05, 0.7, 1.0, 0.4, 4, 0.4),
    (5, 0, 0.0, None, None, 0.5, None, None),
]
# feature, kind, part, rank, doc, start, length, peak, max, pre, inclusion, copies, act_index,
# act_value
EXAMPLES = [
    (1, "top", "", 0, 0, 1, 4, 2, 3.0, 3.0, 1.0, 1, [0, 2], [1.5, 3.0]),
    (1, "top", "", 1, 1, 0, 4, 3, 2.0, 2.0, 1.0, 2, [3], [2.0]),
    (1, "quantile", "0-0.5", 0, 0, 0, 4, 1, 0.5, 0.5, 0.5, 1, [1], [0.5]),
    (1, "quantile", "0.99-1", 0, 1, 0, 4, 3, 2.0, 2.0, 1.0, 1, [3], [2.0]),
    (1, "active", "", 0, 7, 2, 3, 0, 1.0, 1.0, 0.25, 1, [0], [1.0]),
    (1, "near_miss", "token", 0, 0, 0, 4, 2, 0.0, -1.0, None, 1, [], []),
    (1, "near_miss", "under", 0, 2, 0, 3, 0, 0.0, 0.19, None, 1, [], []),
    (1, "random", "", 0, 2, 0, 3, 1, 0.0, -2.0, 0.125, 3, [], []),
    (2, "top", "", 0, 2, 1, 2, 0, 2.5, 2.5, 1.0, 1, [0, 1], [2.5, 2.0]),
    (3, "top", "", 0, 1, 1, 2, 0, 9.0, 9.0, 1.0, 1, [0], [9.0]),
]
# feature -> where its bands of ranks begin, and the fires in each, the weakest first
BANDS = {
    1: ((0.0, 25), (0.75, 20), (1.5, 4), (2.0, 1)),
    2: ((0.0, 250), (2.0, 200), (2.25, 45), (2.5, 5)),
    3: ((0.0, 4), (0.5, 3), (9.25, 0), (9.25, 0)),
    4: ((0.0, 25), (0.5, 20), (0.75, 4), (1.0, 1)),
}
EXAMPLE_COLUMNS = (
    "feature kind part rank doc start length peak max pre inclusion copies act_index act_value"
)
META = {"sae": "hand", "hist_edges": [0.0, 1.0, 2.0], "seed": 3, "tokens": 1000}


def rows() -> dict[str, list[dict]]:
    """The tables as lists of rows; a fresh copy each time."""
    names = "feature fires density mean max theta peak_token peak_share".split()
    features = [dict(zip(names, row, strict=True)) for row in FEATURES]
    for row in features:
        fires, mean = row["fires"], row["mean"]
        alive = fires > 0
        row |= {
            "total": fires * (mean or 0.0), "total_squares": fires * (mean or 0.0) ** 2,
            "sd": 0.0 if alive else None, "skew": None, "kurtosis": None,
            "q10": mean, "q50": mean, "q90": mean, "q99": row["max"],
            "quantile_error": 0.0625 if alive else None,
            "first_doc": 0 if alive else None, "last_doc": 7 if alive else None,
            "dead": not alive, "rare": fires == 7, "dense_1": row["density"] > 0.01,
            "dense_10": row["density"] > 0.1, "single_token": (row["peak_share"] or 0) > 0.8,
            "position_bound": False, "outlier_bound": False,
            "outlier_share": 0.0 if alive else None, "top_logit": (row["feature"] + 1) % 5,
            "hist_first": 1, "hist_counts": [fires] if alive else [], "pre_counts": [1, 2, 3],
            "pre_unit": 1.0, "positions": [fires, 0],
        }  # fmt: skip
    logits = [
        {
            "feature": row["feature"], "scaled": scaled, "top_ids": [row["top_logit"], 0],
            "top_logits": [2.0, 1.0], "bottom_ids": [3], "bottom_logits": [-1.0], "sd": 0.5,
            "skew": 0.25, "kurtosis": 3.0, "low": -1.0, "high": 2.0, "counts": [2, 3],
        }
        for row in features
        for scaled in (False, True)
    ]  # fmt: skip
    docs = [{**doc, "min_hash": 2**63 + doc["doc"], "n_tokens": len(doc["ids"])} for doc in DOCS]
    examples = [dict(zip(EXAMPLE_COLUMNS.split(), row, strict=True)) for row in EXAMPLES]
    bands = [
        {"feature": feature, "part": part, "low": low, "fires": fires}
        for feature, given in BANDS.items()
        for part, (low, fires) in zip(sorted(PARTS), given, strict=True)
    ]
    tables = {"token": TOKENS, "doc": docs, "feature": features, "logit": logits, "band": bands}
    return copy.deepcopy(tables | {"example": examples})


def write(path: Path, tables: dict[str, list[dict]] | None = None, meta: dict = META) -> str:
    """Writes the store (of changed rows, if given) to `path`; returns its content hash."""
    arrow = {
        name: pa.Table.from_pylist(some, schema=arrow_schema(name))
        for name, some in (tables or rows()).items()
    }
    return write_features(path, meta, arrow)


def arrow_schema(table: str) -> pa.Schema:
    """Arrow's types of a table of features.duckdb."""
    con = schema.connect()
    try:
        schema.create_features(con)
        return con.sql(f"SELECT * FROM {table} LIMIT 0").to_arrow_table().schema
    finally:
        con.close()


EXPLANATIONS = [
    Explanation(1, "lexical", "The article", {"weights": {"1": 0.5}}),
    Explanation(2, "lexical", "accents, 100% of them", {}),
    Explanation(4, "lexical", "never shown", {}, "failed", "the judge gave no answer"),
]
SCORES = [
    Score(1, "simulate", 0.25, 0.1, 0.4, 100, 5),
    Score(2, "simulate", 0.75, 0.7, 0.8, 90, 4),
    Score(3, "simulate", None, None, None, 0, 0, "failed", "constant activations"),
    Score(4, "simulate", None, None, None, 0, 0, "not_run", "no explanation"),
]


def write_run(path: Path) -> None:
    """Writes the results of a run over the hand-made store."""
    write_results(path, {"judge": "lexical", "sae": "hand"}, EXPLANATIONS, SCORES)

"""A store small enough to know by heart: 6 features, 5 tokens, 4 documents.

Out: Arrow tables for write_features, as rows that a test may change before they are written.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pyarrow as pa

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
# feature, kind, rank, doc, start, length, peak, max, inclusion, act_index, act_value
EXAMPLES = [
    (1, "top", 0, 0, 1, 4, 2, 3.0, 1.0, [0, 2], [1.5, 3.0]),
    (1, "top", 1, 1, 0, 4, 3, 2.0, 1.0, [3], [2.0]),
    (1, "active", 0, 7, 2, 3, 0, 1.0, 0.25, [0], [1.0]),
    (1, "random", 0, 2, 0, 3, 1, 0.0, 0.125, [], []),
    (2, "top", 0, 2, 1, 2, 0, 2.5, 1.0, [0, 1], [2.5, 2.0]),
    (3, "top", 0, 1, 1, 2, 0, 9.0, 1.0, [0], [9.0]),
]
EXAMPLE_COLUMNS = "feature kind rank doc start length peak max inclusion act_index act_value"
META = {"sae": "hand", "hist_edges": [0.0, 1.0, 2.0], "seed": 3, "tokens": 1000}


def rows() -> dict[str, list[dict]]:
    """The four tables as lists of rows; a fresh copy each time."""
    names = "feature fires density mean max theta peak_token peak_share".split()
    features = [dict(zip(names, row, strict=True)) for row in FEATURES]
    for row in features:
        i = row["feature"]
        row |= {
            "total": row["fires"] * (row["mean"] or 0.0),
            "hist_counts": [row["fires"], 0], "pre_counts": [1, 2, 3], "pre_unit": 1.0,
            "top_ids": [(i + 1) % 5, 0], "top_logits": [2.0, 1.0],
            "bottom_ids": [3], "bottom_logits": [-1.0],
        }  # fmt: skip
    docs = [{**doc, "min_hash": 2**63 + doc["doc"], "n_tokens": len(doc["ids"])} for doc in DOCS]
    examples = [dict(zip(EXAMPLE_COLUMNS.split(), row, strict=True)) for row in EXAMPLES]
    return copy.deepcopy({"token": TOKENS, "doc": docs, "feature": features, "example": examples})


TYPES = {
    "token": {"id": pa.int32(), "bytes": pa.binary(), "special": pa.bool_()},
    "doc": {
        "doc": pa.int32(), "name": pa.string(), "split": pa.string(), "use": pa.string(),
        "min_hash": pa.uint64(), "n_tokens": pa.int32(), "ids": pa.list_(pa.int32()),
    },
    "feature": {
        "feature": pa.int32(), "fires": pa.int64(), "density": pa.float64(),
        "total": pa.float64(), "mean": pa.float64(), "max": pa.float32(), "theta": pa.float32(),
        "peak_token": pa.int32(), "peak_share": pa.float64(),
        "hist_counts": pa.list_(pa.int64()), "pre_counts": pa.list_(pa.int64()),
        "pre_unit": pa.float32(), "top_ids": pa.list_(pa.int32()),
        "top_logits": pa.list_(pa.float32()), "bottom_ids": pa.list_(pa.int32()),
        "bottom_logits": pa.list_(pa.float32()),
    },
    "example": {
        "feature": pa.int32(), "kind": pa.string(), "rank": pa.int32(), "doc": pa.int32(),
        "start": pa.int32(), "length": pa.int32(), "peak": pa.int32(), "max": pa.float32(),
        "inclusion": pa.float64(), "act_index": pa.list_(pa.uint16()),
        "act_value": pa.list_(pa.float32()),
    },
}  # fmt: skip


def write(path: Path, tables: dict[str, list[dict]] | None = None, meta: dict = META) -> str:
    """Writes the store (of changed rows, if given) to `path`; returns its content hash."""
    tables = tables or rows()
    arrow = [
        pa.Table.from_pylist(tables[name], schema=pa.schema(list(types.items())))
        for name, types in TYPES.items()
    ]
    return write_features(path, meta, *arrow)


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

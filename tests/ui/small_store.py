"""A small workspace with made-up but plausible content, for tests of the pages.

Out: saes/<name> with cfg.json, train.jsonl, metrics.json and features.duckdb, and one auto-interp
run. Documents are Python code and prose with emoji; a feature fires on a few chosen tokens.
Feature 0 is dead, feature 1 dense, feature 2 fires on one token only, feature 3 on a split emoji.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.features_store import write_features
from data.records import Explanation, Score
from data.runs_store import write_results

CONTEXT = 128
WEIGHTS = hashlib.sha256(b"").hexdigest()  # of what `write_sae` writes
DEAD, DENSE, SINGLE, EMOJI = 0, 1, 2, 3
USES = ("explain", "explain", "score", "calibrate", "score", "explain")
DOCUMENTS = (
    (
        "python:lib/fibonacci.py",
        'def fibonacci(n):\n    """The n-th Fibonacci number."""\n    a, b = 0, 1\n'
        "    for _ in range(n):\n        a, b = b, a + b\n    return a\n\n\n"
        "class Cache(dict):\n    def __missing__(self, n):\n        self[n] = fibonacci(n)\n"
        "        return self[n]\n",
    ),
    (
        "python:lib/reader.py",
        "import json\nimport sys\n\n\ndef read(path):\n    with open(path) as stream:\n"
        "        return json.load(stream)\n\n\ndef main(argv):\n    for path in argv[1:]:\n"
        "        print(read(path))\n    return 0\n\n\nif __name__ == '__main__':\n"
        "    sys.exit(main(sys.argv))\n",
    ),
    (
        "letters/party.txt",
        "Dear Ada, the party was lovely 🎉 and the cake even better 🍰. We danced until the band "
        "packed up, and walked home along the river 🎉🎉. The café at the corner was still open!",
    ),
    (
        "letters/harbour.txt",
        "The ship lay in the harbour for a week. The captain walked the deck and said that the "
        "wind would turn, and on the seventh day the wind did turn <script>alert(1)</script>.",
    ),
    (
        "python:lib/shapes.py",
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Square:\n    side: float\n\n"
        "    def area(self):\n        return self.side ** 2\n\n\n@dataclass\nclass Circle:\n"
        "    radius: float\n\n    def area(self):\n\treturn 3.14159 * self.radius ** 2\n",
    ),
    (
        "letters/weather.txt",
        "It rained on Monday, it rained on Tuesday, and on Wednesday the sun came out. 🎉 The "
        "garden was green again and the children were in the garden before breakfast.",
    ),
)


def tokenise(text: str) -> list[bytes]:
    """Words with their leading space, runs of blanks, single signs; emoji in two halves."""
    found: list[bytes] = []
    for match in re.finditer(r" ?\w+|\n| +|\t|.", text, re.DOTALL):
        raw = match[0].encode()
        whole = len(raw) < 4 or raw[0] < 0xF0
        found += [raw] if whole else [raw[:2], raw[2:]]
    return found


class Corpus:
    """Tokenised documents and a made-up activation for each feature and token type."""

    def __init__(self, documents: Sequence[tuple[str, str]], n_features: int, seed: int):
        self.names = [name for name, _ in documents]
        tokens = [tokenise(text) for _, text in documents]
        self.vocabulary = [b"<bos>", *sorted({t for document in tokens for t in document})]
        number = {token: at for at, token in enumerate(self.vocabulary)}
        self.ids = [np.array([number[t] for t in document]) for document in tokens]
        self.rng = np.random.default_rng(seed)
        self.table = self._table(n_features, number)
        self.n_tokens = sum(map(len, self.ids))

    def _table(self, n_features: int, number: dict[bytes, int]) -> np.ndarray:
        """Mean activation [n_features, vocabulary]."""
        table = np.zeros((n_features, len(self.vocabulary)))
        counts = np.bincount(np.concatenate(self.ids), minlength=len(self.vocabulary))
        for feature in range(n_features):
            size = int(self.rng.integers(1, 6))
            weight = counts**0.5 / (counts**0.5).sum()
            chosen = self.rng.choice(len(self.vocabulary), size, replace=False, p=weight)
            table[feature, chosen] = self.rng.lognormal(0.6, 0.7, size)
        table[DEAD] = 0
        table[DENSE] = self.rng.lognormal(-1, 0.4, len(self.vocabulary))
        table[SINGLE] = 0
        table[SINGLE, number.get(b"def", 1)] = 3.0
        if "🎉".encode()[:2] in number:
            table[EMOJI] = 0
            table[EMOJI, [number["🎉".encode()[:2]], number["🎉".encode()[2:]]]] = 2.0, 4.0
        return table

    def activations(self, doc: int) -> np.ndarray:
        """[n_features, tokens] of one document; the same at every call."""
        rng = np.random.default_rng([7, doc])
        noise = rng.lognormal(0, 0.45, (len(self.table), len(self.ids[doc])))
        return np.round(self.table[:, self.ids[doc]] * noise, 4).astype(np.float32)


def write_store(
    path: Path,
    documents: Sequence[tuple[str, str]] = DOCUMENTS,
    n_features: int = 64,
    seed: int = 0,
    **meta,
) -> Corpus:
    """Writes features.duckdb at `path`; meta: entries of the meta table to add or replace."""
    corpus = Corpus(documents, n_features, seed)
    edges = 2.0 ** np.arange(-8, 6.125, 0.25)
    pre_edges = np.linspace(-2, 4, 121)
    fires, total, largest = np.zeros(n_features, int), np.zeros(n_features), np.zeros(n_features)
    hist = np.zeros((n_features, len(edges) + 1), int)
    spots: list[list[tuple[float, int, int]]] = [[] for _ in range(n_features)]
    for doc in range(len(corpus.ids)):
        f = corpus.activations(doc)
        fires += (f > 0).sum(1)
        total += f.sum(1)
        largest = np.maximum(largest, f.max(1, initial=0))
        for feature, at in zip(*np.nonzero(f), strict=True):
            hist[feature, np.searchsorted(edges, f[feature, at])] += 1
            spots[feature].append((float(f[feature, at]), doc, int(at)))
    about = {
        "sae": path.parent.name, "model": "embedded-demo", "site": "resid_post.2",
        "text": "small documents", "context": CONTEXT, "tokens": corpus.n_tokens,
        "documents": len(documents), "d_in": 64, "d_sae": n_features, "seed": seed,
        "weights_sha256": WEIGHTS, "hist_edges": edges.tolist(), "pre_tokens": corpus.n_tokens,
        "pre_edges": pre_edges.tolist(), "masks": {"prefix": 1}, "wall_s": 1.0,
    }  # fmt: skip
    features, logits = _features(corpus, fires, total, largest, hist, spots, len(pre_edges))
    tokens = pa.table(
        {
            "id": pa.array(range(len(corpus.vocabulary)), pa.int32()),
            "bytes": pa.array(corpus.vocabulary, pa.binary()),
            "special": [token == b"<bos>" for token in corpus.vocabulary],
        }
    )
    tables = {
        "token": tokens,
        "doc": _docs(corpus),
        "feature": features,
        "logit": logits,
        "example": _examples(corpus, spots),
    }
    write_features(path, about | meta, tables)
    return corpus


def _docs(corpus: Corpus) -> pa.Table:
    n = len(corpus.ids)
    return pa.table(
        {
            "doc": pa.array(range(n), pa.int32()),
            "name": corpus.names,
            "split": ["heldout"] * n,
            "use": [USES[doc % len(USES)] for doc in range(n)],
            "min_hash": pa.array([doc * 97 for doc in range(n)], pa.uint64()),
            "n_tokens": pa.array([len(ids) for ids in corpus.ids], pa.int32()),
            "ids": pa.array([ids.tolist() for ids in corpus.ids], pa.list_(pa.int32())),
        }
    )


def _features(corpus, fires, total, largest, hist, spots, n_pre) -> tuple[pa.Table, pa.Table]:
    rng, n = corpus.rng, len(fires)
    dead = fires == 0
    theta = np.round(rng.uniform(0.05, 0.3, n), 3)
    middle = np.exp(-0.5 * ((np.arange(n_pre + 1) - 22) / 11) ** 2)  # far below the threshold
    tail = np.where(np.arange(n_pre + 1) > 60, 0.004, 0)
    pre = rng.poisson(np.outer(rng.uniform(0.3, 1, n), middle + tail) * corpus.n_tokens / 20)
    pre[dead, 61:] = 0
    peaks, shares = [], []
    for feature in range(n):
        ids = [corpus.ids[doc][at] for _, doc, at in spots[feature]]
        counts = np.bincount(ids) if ids else None
        peaks.append(None if counts is None else int(counts.argmax()))
        shares.append(None if counts is None else float(counts.max() / counts.sum()))
    size = min(10, len(corpus.vocabulary))
    ids = np.array([rng.permutation(len(corpus.vocabulary))[:size] for _ in range(n)])
    logits = -np.sort(-rng.lognormal(-1, 0.6, (n, size)), axis=1)
    density, values = fires / corpus.n_tokens, [[v for v, _, _ in places] for places in spots]

    def of_values(measure) -> pa.Array:
        return pa.array([float(measure(v)) if v else None for v in values], pa.float64())

    features = pa.table(
        {
            "feature": pa.array(np.arange(n), pa.int32()),
            "fires": pa.array(fires, pa.int64()),
            "density": density,
            "total": total,
            "total_squares": pa.array([float(np.square(v).sum()) for v in values]),
            "mean": of_values(np.mean),
            "sd": of_values(np.std),
            "skew": pa.array([None] * n, pa.float64()),
            "kurtosis": pa.array([None] * n, pa.float64()),
            "max": pa.array(largest.astype(np.float32), mask=dead),
            **{
                f"q{q}": of_values(lambda v, q=q: np.quantile(v, q / 100)) for q in (10, 50, 90, 99)
            },
            "quantile_error": of_values(lambda v: 0.0),
            "theta": pa.array(theta, pa.float32()),
            "first_doc": pa.array([p[0][1] if p else None for p in spots], pa.int32()),
            "last_doc": pa.array([p[-1][1] if p else None for p in spots], pa.int32()),
            "peak_token": pa.array(peaks, pa.int32()),
            "peak_share": pa.array(shares, pa.float64()),
            "dead": dead,
            "rare": (fires > 0) & (fires < 10),
            "dense_1": density > 0.01,
            "dense_10": density > 0.1,
            "single_token": np.array([(s or 0) > 0.9 for s in shares]),
            "position_bound": np.zeros(n, bool),
            "outlier_bound": np.zeros(n, bool),
            "outlier_share": pa.array(np.zeros(n), mask=dead),
            "top_logit": pa.array(ids[:, 0], pa.int32()),
            "hist_first": pa.array(np.zeros(n), pa.int16()),
            "hist_counts": pa.array(hist.tolist(), pa.list_(pa.int64())),
            "pre_counts": pa.array(pre.tolist(), pa.list_(pa.int64())),
            "pre_unit": pa.array(theta, pa.float32()),
            "positions": pa.array([[f] for f in fires.tolist()], pa.list_(pa.int64())),
        }
    )
    one = pa.array(np.ones(n), pa.float32())
    logit = {
        "feature": pa.array(np.arange(n), pa.int32()),
        "top_ids": pa.array(ids.tolist(), pa.list_(pa.int32())),
        "top_logits": pa.array(logits.tolist(), pa.list_(pa.float32())),
        "bottom_ids": pa.array(ids[:, ::-1].tolist(), pa.list_(pa.int32())),
        "bottom_logits": pa.array((-logits).tolist(), pa.list_(pa.float32())),
        "sd": one, "skew": one, "kurtosis": one, "low": pa.array(-logits[:, 0], pa.float32()),
        "high": pa.array(logits[:, 0], pa.float32()),
        "counts": pa.array([[1, 2, 5, 2, 1]] * n, pa.list_(pa.int32())),
    }  # fmt: skip
    both = [pa.table({**logit, "scaled": np.full(n, scaled)}) for scaled in (False, True)]
    return features, pa.concat_tables(both)


def _examples(corpus: Corpus, spots) -> pa.Table:
    rng, rows = corpus.rng, []
    f = {doc: corpus.activations(doc) for doc in range(len(corpus.ids))}
    for feature, places in enumerate(spots):
        best: dict[int, tuple[float, int, int]] = {}
        for spot in places:
            best[spot[1]] = max(spot, best.get(spot[1], spot))
        top = sorted(best.values(), reverse=True)[:20]
        active = [places[at] for at in rng.permutation(len(places))[:20]]
        docs = rng.integers(0, len(corpus.ids), 5)
        anywhere = [(int(d), int(rng.integers(len(corpus.ids[d])))) for d in docs]
        drawn = [(float(f[d][feature, at]), d, at) for d, at in anywhere]
        for kind, chosen in (("top", top), ("active", active), ("random", drawn)):
            rows += [(feature, kind, n, spot) for n, spot in enumerate(chosen)]
    out = []
    for feature, kind, rank, (value, doc, at) in rows:
        start = at // CONTEXT * CONTEXT
        length = min(CONTEXT, len(corpus.ids[doc]) - start)
        values = f[doc][feature, start : start + length]
        index = np.flatnonzero(values)
        out.append(
            {
                "feature": feature, "kind": kind, "part": "", "rank": rank, "doc": doc,
                "start": start, "length": length, "peak": at - start, "max": value, "pre": value,
                "inclusion": 1.0, "copies": 1,
                "act_index": index.tolist(), "act_value": values[index].tolist(),
            }
        )  # fmt: skip
    types = {"kind": pa.string(), "part": pa.string(), "max": pa.float32(),
             "pre": pa.float32(), "inclusion": pa.float64(),
             "act_index": pa.list_(pa.uint16()), "act_value": pa.list_(pa.float32())}  # fmt: skip
    schema = pa.schema([(name, types.get(name, pa.int32())) for name in out[0]])
    return pa.Table.from_pylist(out, schema=schema)


def write_sae(root: Path, name: str, n_features: int = 64, l0: float = 31.6) -> Path:
    """A finished SAE: cfg.json, weights of no content, train.jsonl. Returns its folder."""
    folder = root / "saes" / name
    folder.mkdir(parents=True)
    (folder / "sae_weights.safetensors").write_bytes(b"")
    own = {"site": "resid_post.2", "training": {"l0": l0, "tokens": 2_000_000, "seed": 0}}
    metadata = {"model_name": "embedded-demo", "hook_name": "blocks.2.hook_resid_post",
                "context_size": CONTEXT, "dataset_path": "python:stdlib",
                "workbench": own}  # fmt: skip
    config = {"architecture": "jumprelu", "d_in": 64, "d_sae": n_features, "dtype": "float32",
              "metadata": metadata}  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    rows = []
    for step in range(0, 1001, 10):
        left = np.exp(-step / 180)
        row = {"step": step, "tokens": step * 2048, "loss": 0.18 + 0.9 * left,
               "fve": 0.86 - 0.8 * left, "l0": l0 + 60 * left * np.cos(step / 90),
               "dead": int(n_features * 0.04 * (1 - left)), "theta_mean": 0.2 - 0.15 * left,
               "bandwidth": 0.1 * 0.995 ** (step / 4), "lr": 3e-4, "lambda": 0.01 * (1 - left),
               "tokens_per_s": 40_000.0}  # fmt: skip
        rows.append(json.dumps(row))
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def write_metrics(folder: Path, l0: float = 31.6, fve: float = 0.861, dead: int = 1) -> None:
    d_sae = json.loads((folder / "cfg.json").read_text())["d_sae"]
    metrics = {"l0": l0, "fve": fve, "mse": 0.31, "delta_loss": 0.124, "loss_recovered": 0.972,
               "kl": 0.11, "gamma": 0.98, "dead": dead, "alive": d_sae - dead,
               "high_freq_10": 0.01, "high_freq_1": 0.12, "n_tokens": 262_144}  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))


def write_run(root: Path, sae: str, corpus: Corpus, run: str = "lexical-1") -> None:
    """Labels and scores of the lexical judge for every feature; a third of the scores absent."""
    folder = root / "autointerp" / run
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"sae": sae, "judge": "lexical"}))
    explanations, scores = [], []
    for feature, weights in enumerate(corpus.table):
        best = [at for at in np.argsort(-weights)[:4] if weights[at] > 0]
        text = ", ".join(
            f'"{corpus.vocabulary[at].decode("utf-8", "backslashreplace")}"' for at in best
        )
        if not best:
            reason = "no active example in the explain split"
            explanations.append(Explanation(feature, "lexical", "", {}, "failed", reason))
            continue
        explanations.append(Explanation(feature, "lexical", text.replace("\n", "\\n"), {}))
        value = float(np.clip(corpus.rng.normal(0.6, 0.2), -0.2, 0.98))
        if feature % 3:
            scores.append(
                Score(feature, "simulate", value, value - 0.1, min(1, value + 0.08), 4096, 24)
            )
        else:
            scores.append(Score(feature, "simulate", None, None, None, 0, 0, "failed", "2 texts"))
    write_results(folder / "results.duckdb", {"sae": sae}, explanations, scores)


def write_workspace(root: Path, name: str = "small") -> Path:
    """A workspace with one complete SAE."""
    folder = write_sae(root, name)
    write_metrics(folder)
    corpus = write_store(folder / "features.duckdb")
    write_run(root, name, corpus)
    return root

"""Features in the layout that Neuronpedia imports.

In:  a feature's records, the store's meta and the bytes of its tokens.
Out: dicts with the columns of Neuronpedia's tables, and the folder its bulk import reads:

    <modelId>/<layer>-<set>/  release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl
                              features/batch-N.jsonl.gz  activations/batch-N.jsonl.gz
                              explanations/batch-N.jsonl.gz

Where this is from. Layout and file names: Neuronpedia's export-data.py and
convert-saedashboard-to-neuronpedia-export.py (utils/neuronpedia-utils), and SAEDashboard's
neuronpedia_export.py. Columns, types and defaults: apps/webapp/prisma/schema.prisma, tables Neuron,
Activation, Explanation, Model, Source, SourceSet, SourceRelease. What the importer does with them
(apps/webapp/lib/db/import.ts): the keys of a file's first line name its columns, others get the
default of the table; NUL is not allowed. The meaning of bins: SAEDashboard's sequence generator (a
share of all tokens, zeros included; -1 marks the strongest). All read in hijohnnylin/neuronpedia
and jbloomAus/SAEDashboard, 2025 and 2026.

What is true here and was not there. frac_nonzero is the counted density, not one read back from a
title. Tokens are whole characters: tokens that share one are joined, the larger activation kept,
and bytes that are no text read \\xNN. Intervals are ranks among the fires, not equal steps; their
bounds are the store's quantiles (right within feature.quantile_error). maxValue is the largest
value of the text; qualifyingTokenIndex is the token that was sampled. The activation histogram has
bars of equal width, as their page assumes: counts are spread evenly within each of the store's bins
of equal ratio, so heights are no whole numbers; their sum is the number of fires.

What is left out, and takes the table's default there: decoder vectors, cosine neighbours, neuron
and feature correlations, UMAP, DFA, losses, embeddings of explanations, and scores; examples of the
kinds active, near_miss and random, for which Neuronpedia has no place; inclusion probabilities.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.records import Example, Explanation, FeatureStats, LogitEffect
from data.token_text import mark, pieces

CREATOR = "clkht01d40000jv08hvalcvly"  # the user that Neuronpedia's own tools give imports to
BARS = 50
AT_ONCE = 256  # features of a file: the importer inserts one file in one statement, 200 MB at most
HOOKS = {"resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out", "attn_z": "attn.hook_z"}


@dataclass(frozen=True)
class Source:
    """What all features of one SAE share. On Neuronpedia they are at /<model>/<name>/<index>."""

    model: str
    set: str
    name: str
    hook: str | None  # TransformerLens's name of the site
    meta: Mapping[str, Any]  # of the feature store
    tokens: Mapping[int, tuple[bytes, bool]]  # (bytes, special) of each id
    texts: Mapping[int, str]  # of the tokens that are whole characters


@dataclass(frozen=True)
class FeaturePage:
    """Everything that is exported of one feature."""

    stats: FeatureStats
    logits: LogitEffect | None
    examples: Sequence[Example]
    explanation: Explanation | None
    bands: Mapping[str, tuple[float, int]]  # of ranks: where each begins, how many fires it holds


def source_of(meta: Mapping[str, Any], tokens: Mapping[int, tuple[bytes, bool]]) -> Source:
    """Names made of the store's model, site and SAE. A site that names no layer counts as layer 0:
    Neuronpedia's source begins with a number."""
    site = str(meta["site"])
    kind, _, layer = site.partition(".")
    numbers = re.findall(r"\d+", site)
    own = _slug(str(meta["sae"]))
    return Source(
        model=_slug(str(meta["model"]).rstrip("/").rsplit("/", 1)[-1]),
        set=own,
        name=f"{numbers[0] if numbers else 0}-{own}",
        hook=f"blocks.{layer}.{HOOKS[kind]}" if kind in HOOKS else None,
        meta=meta,
        tokens=tokens,
        texts={token: _text(data) for token, (data, _) in tokens.items() if _whole(data)},
    )


def _slug(name: str) -> str:
    """A name as Neuronpedia allows it: lower-case letters, digits, - and _."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-") or "unnamed"


def feature_record(source: Source, page: FeaturePage) -> dict[str, Any]:
    """A row of their table Neuron."""
    stats, logits = page.stats, page.logits
    record: dict[str, Any] = {
        **_place(source, stats.feature),
        "sourceSetName": source.set,
        "creatorId": CREATOR,
        "maxActApprox": _short(stats.max or 0.0),  # 0 is how their page knows a dead feature
        "hasVector": False,
        "hookName": source.hook,
        "frac_nonzero": stats.density,
    }
    heights, values = even_bars(
        source.meta["hist_edges"], stats.hist_first, stats.hist_counts, stats.max or 0.0
    )
    record["freq_hist_data_bar_heights"] = [_short(height) for height in heights]
    record["freq_hist_data_bar_values"] = [_short(value) for value in values]
    counts = logits.counts if logits else ()
    step = (logits.high - logits.low) / len(counts) if logits and counts else 0.0
    low = logits.low if logits else 0.0
    record["logits_hist_data_bar_heights"] = list(counts)
    record["logits_hist_data_bar_values"] = [
        _short(low + (i + 0.5) * step) for i in range(len(counts))
    ]
    for name, ids, effects in (
        ("neg", logits.bottom_ids if logits else (), logits.bottom_logits if logits else ()),
        ("pos", logits.top_ids if logits else (), logits.top_logits if logits else ()),
    ):
        record[f"{name}_str"] = [_text(source.tokens[token][0]) for token in ids]
        record[f"{name}_values"] = [_short(effect) for effect in effects]
    return record


def activation_records(source: Source, page: FeaturePage) -> list[dict[str, Any]]:
    """Rows of their table Activation: the examples of the kinds `top` and `quantile`."""
    stats, found = page.stats, []
    for example in page.examples:
        if example.kind == "top":
            bin_min, bin_max, contains = -1.0, stats.max, -1.0
        elif example.kind == "quantile":
            bin_min, fires = page.bands[example.part]
            above = [low for low, _ in page.bands.values() if low > bin_min]
            bin_max = min([*above, stats.max])
            contains = fires / stats.fires * stats.density
        else:
            continue
        words, values, peak = _joined(source, example)
        best = max(range(len(values)), key=values.__getitem__)
        found.append(
            {
                "id": _id(source, example.feature, example.kind, example.part, example.rank),
                **_place(source, example.feature),
                "creatorId": CREATOR,
                "dataIndex": f"{example.document}:{example.start}",
                "tokens": words,
                "values": [_short(value) if value else 0 for value in values],
                "maxValue": _short(values[best]),
                "maxValueTokenIndex": best,
                "minValue": _short(min(values)),
                "binMin": _short(bin_min),
                "binMax": _short(bin_max),
                "binContains": contains,
                "qualifyingTokenIndex": peak,
            }
        )
    return found


def explanation_record(source: Source, page: FeaturePage) -> dict[str, Any] | None:
    """A row of their table Explanation; None without an explanation that did not fail.

    The judge stands in `notes`: explanationModelName must be a model their database knows.
    """
    told = page.explanation
    if told is None or told.status != "ok":
        return None
    return {
        "id": _id(source, told.feature, "explanation", told.judge),
        **_place(source, told.feature),
        "authorId": CREATOR,
        "description": _clean(told.text),
        "notes": f"judge: {told.judge}",
    }


def even_bars(
    edges: Sequence[float], first: int, counts: Sequence[int], maximum: float, bars: int = BARS
) -> tuple[list[float], list[float]]:
    """(heights, middles) of bars of equal width from 0 to `maximum`, from bins of any width.

    counts begin with bin `first` of len(edges) + 1: bin 0 below edges[0], the last beyond
    edges[-1]; none holds a value above `maximum`. Counts are spread evenly within their bin, which
    keeps their sum. ([], []) for a feature that never fires. Own.
    """
    if not sum(counts) or maximum <= 0:
        return [], []
    whole = np.zeros(len(edges) + 1)
    whole[first : first + len(counts)] = counts
    lower = np.concatenate([[0.0], np.asarray(edges, float)])
    inside = lower < maximum
    points = np.append(lower[inside], maximum)
    below = np.concatenate([[0.0], np.cumsum(whole)])[: len(points)]
    grid = np.linspace(0.0, maximum, bars + 1)
    heights = np.diff(np.interp(grid, points, below))
    heights[-1] += whole.sum() - below[-1]  # a bin that begins at the maximum
    return heights.tolist(), ((grid[:-1] + grid[1:]) / 2).tolist()


def write_source(folder: Path, source: Source) -> Path:
    """Writes model, release, set and source into `folder`; returns the folder of the source.

    An importer keeps the model, release and set it has already.
    """
    meta, model = source.meta, source.model
    where = folder / model / source.name
    where.mkdir(parents=True)
    title = f"{meta['sae']}: {meta['site']} of {meta['model']}"
    release = f"{model}-{source.set}"
    rule = meta.get("rule") or {}
    rows = {
        "model": {
            "id": model, "displayName": model, "displayNameShort": model,
            "creatorId": CREATOR, "visibility": "PUBLIC", "instruct": bool(rule.get("chat")),
            "layers": 0, "neuronsPerLayer": 0, "owner": "",
        },
        "release": {
            "name": release, "description": title, "descriptionShort": title, "urls": [],
            "creatorName": "", "creatorId": CREATOR, "visibility": "PUBLIC",
        },
        "sourceset": {
            "modelId": model, "name": source.set, "description": title, "urls": [],
            "creatorName": "", "creatorId": CREATOR, "visibility": "PUBLIC", "releaseName": release,
        },
        "source": {
            "id": source.name, "modelId": model, "setName": source.set, "creatorId": CREATOR,
            "visibility": "PUBLIC", "dataset": str(meta["text"]),
            "num_tokens_in_prompt": meta["context"], "notes": f"{meta['tokens']:,} tokens",
        },
    }  # fmt: skip
    for name, row in rows.items():
        (where / f"{name}.jsonl").write_text(_line(row), encoding="utf-8")
    return where


def write_batch(where: Path, number: int, source: Source, pages: Iterable[FeaturePage]) -> None:
    """Writes file `number` of features, activations and, where there are any, explanations."""
    with ExitStack() as stack:
        files: dict[str, gzip.GzipFile] = {}

        def add(kind: str, record: dict[str, Any]) -> None:
            if kind not in files:
                (where / kind).mkdir(exist_ok=True)
                path = where / kind / f"batch-{number}.jsonl.gz"
                # Without a name and a time inside, the same records give the same bytes.
                raw = stack.enter_context(path.open("wb"))
                files[kind] = stack.enter_context(gzip.GzipFile("", "wb", 5, raw, mtime=0))
            files[kind].write(_line(record).encode())

        for page in pages:
            add("features", feature_record(source, page))
            for record in activation_records(source, page):
                add("activations", record)
            told = explanation_record(source, page)
            if told is not None:
                add("explanations", told)


def _joined(source: Source, example: Example) -> tuple[list[str], Sequence[float], int]:
    """(strings, values, index of the peak) with tokens that share a character made one."""
    words = [source.texts.get(token) for token in example.ids]
    if None not in words:  # nearly always
        return words, example.values, example.peak
    row = pieces([source.tokens[token] for token in example.ids], example.values)
    peak = next(i for i, piece in enumerate(row) if piece.first <= example.peak <= piece.last)
    return [_clean(piece.text) for piece in row], [piece.value for piece in row], peak


def _whole(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _text(data: bytes) -> str:
    return _clean(data.decode("utf-8", "surrogateescape"))


def _clean(text: str) -> str:
    """Text that PostgreSQL takes: bytes that are no UTF-8, and NUL, as \\xNN."""
    if text.isascii() and "\0" not in text:
        return text
    return "".join(
        mark(char) if char == "\0" or 0xD800 <= ord(char) <= 0xDFFF else char for char in text
    )


def _short(value: float) -> float:
    """Six significant digits: activations are float32 at best."""
    return float(f"{value:.6g}")


def _place(source: Source, feature: int) -> dict[str, str]:
    return {"modelId": source.model, "layer": source.name, "index": str(feature)}


def _id(source: Source, *key: object) -> str:
    """25 characters that name a row of this store, the same at each export."""
    named = json.dumps([source.meta.get("content_hash"), *key])
    return "c" + hashlib.sha256(named.encode()).hexdigest()[:24]


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"

"""What a store must be true to before any number of it is computed again.

In:  columns of its documents and examples, its meta, what SAE and model say of themselves now.
Out: a `Check` for each rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from data.text import split_of, use_of
from interp.tally import Check, Tally

FAR = 6.0  # standard errors by which weights may miss the fires they stand for


def identity(meta: Mapping, now: Mapping[str, object]) -> Check:
    """Whether the store names the weights, model and sizes that are here now, key by key."""
    tally = Tally("made from this SAE and model", 0.0)
    for key, value in now.items():
        tally.expect(
            np.array([meta.get(key) == value]),
            lambda _, key=key, value=value: f"{key}: {_short(meta.get(key))}, now {_short(value)}",
        )
    return tally.check


def splits(documents: Mapping[str, np.ndarray]) -> Check:
    """Whether split and use of every document follow from its min-hash (data/text.py), so that no
    text is in two uses."""
    tally = Tally("splits follow from the texts", 0.0)
    minimum = documents["min_hash"].tolist()
    for name, rule in (("split", split_of), ("use", use_of)):
        given = documents[name].tolist()
        right = [rule(value) for value in minimum]
        good = np.array([a == b for a, b in zip(given, right, strict=True)], dtype=bool)
        tally.expect(
            good,
            lambda i, name=name, given=given, right=right: (
                f"document {documents['doc'][i]}: {name} {given[i]}, not {right[i]}"
            ),
        )
    return tally.check


def weights(examples: Mapping[str, np.ndarray], fires: Mapping[int, int]) -> Check:
    """Whether copies / inclusion of a feature's samples add up to its fires (Horvitz and Thompson).

    Where everything was taken they must to the last token; else all features together must within
    FAR standard errors (Cohen and Kaplan 2007: each token adds copies^2 (1 - p) / p^2).
    """
    tally, told = Tally("weights of samples", 0.0), []
    features, of = np.unique(examples["feature"], return_inverse=True)
    counts = np.array([fires[int(feature)] for feature in features])
    for kind in ("active", "quantile"):
        mine = examples["kind"] == kind
        p, copies, who = examples["inclusion"][mine], examples["copies"][mine], of[mine]
        if len(p) == 0:
            continue
        sums = np.bincount(who, weights=copies / p, minlength=len(features))
        noise = np.bincount(who, weights=copies**2 * (1 - p) / p**2, minlength=len(features))
        # Of a band that holds nothing below the hash it is known up to, nothing is taken.
        whole = np.flatnonzero((noise == 0) & (sums > 0) & (kind == "active"))
        tally.expect(
            np.rint(sums[whole]) == counts[whole],
            lambda i, whole=whole, sums=sums, kind=kind: (
                f"feature {features[whole[i]]}: {kind} examples stand for {sums[whole[i]]:.0f} "
                f"fires of {counts[whole[i]]}"
            ),
        )
        if noise.any():
            miss = (sums.sum() - counts.sum()) / math.sqrt(noise.sum())
            told.append(f"{kind} {sums.sum() / counts.sum():.3f} ({miss:+.1f} s.e.)")
            tally.expect(np.array([abs(miss) < FAR]), lambda _, told=told[-1]: told)
    tally.note = "share of the fires they stand for: " + ", ".join(told) if told else ""
    return tally.check


def rule(name: str, asked: int, broken: int, where: str) -> Check:
    """A rule that was held against rows elsewhere, as a Check."""
    return Check(name, asked, broken, None, 0, 0, where)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:16]}..."

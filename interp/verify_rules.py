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


def sizes(
    stored: Mapping[str, np.ndarray], bands: Mapping[str, np.ndarray]
) -> dict[tuple[int, str], int]:
    """(feature, part) -> fires that a sample of them was taken from, where there are any; part ""
    for all of the feature's. From columns of the tables `feature` and `band`."""
    features, fires = stored["feature"].tolist(), stored["fires"].astype(np.int64).tolist()
    found = {(i, ""): n for i, n in zip(features, fires, strict=True)}
    columns = (bands[name].tolist() for name in ("feature", "part", "fires"))
    found |= {(i, part): n for i, part, n in zip(*columns, strict=True)}
    return {key: n for key, n in found.items() if n > 0}


def weights(examples: Mapping[str, np.ndarray], sizes: Mapping[tuple[int, str], int]) -> Check:
    """Whether copies / inclusion of a sample of fires add up to what it was taken from (Horvitz and
    Thompson): the fires of a feature, those of a band.

    sizes: by (feature, part); part "" for all fires. What holds fires must have a sample. Where
    everything was taken the weights must add up to the last token; else those of all features
    together must within FAR standard errors (Cohen and Kaplan 2007: each token adds
    copies^2 (1 - p) / p^2). A text with many copies that was not drawn is missing from the sum and
    from that error too: too little must be beyond what texts of as many copies as any in the
    examples can explain, most copies * fires (1 - p) / p a feature (own).
    """
    tally, told = Tally("weights of samples", 0.0), []
    fired = np.isin(examples["kind"], ("active", "quantile"))
    there = set(examples["kind"][fired].tolist())
    most = int(examples["copies"].max(initial=1))
    for part in sorted({part for _, part in sizes}):
        kind = "quantile" if part else "active"
        if kind not in there:
            continue
        mine = np.flatnonzero(fired & (examples["kind"] == kind) & (examples["part"] == part))
        features = np.array([i for i, name in sizes if name == part], dtype=np.int64)
        features = np.sort(features)
        counts = np.array([sizes[int(i), part] for i in features])
        mine = mine[np.isin(examples["feature"][mine], features)]
        p, copies = examples["inclusion"][mine], examples["copies"][mine]
        who = np.searchsorted(features, examples["feature"][mine])
        n, sums, noise = (
            np.bincount(who, weights=w, minlength=len(features))
            for w in (np.ones(len(p)), copies / p, copies**2 * (1 - p) / p**2)
        )
        name = f"{kind} {part}".strip()
        tally.expect(
            np.where(noise == 0, np.rint(sums) == counts, n > 0),
            lambda i, f=features, s=sums, c=counts, name=name: (
                f"feature {f[i]}: {name} examples stand for {s[i]:.0f} fires of {c[i]}"
            ),
        )
        if noise.any():
            off, variance = sums.sum() - counts.sum(), noise.sum()
            if off < 0:
                chance = np.ones(len(features))  # inclusion: the same for all of a sample
                chance[who] = p
                unseen = np.minimum(counts, most) * counts * (1 - chance) / chance
                variance = max(variance, unseen.sum())
            miss = off / math.sqrt(variance)
            told.append(f"{name} {sums.sum() / counts.sum():.3f} ({miss:+.1f} s.e.)")
            tally.expect(np.array([abs(miss) < FAR]), lambda _, told=told[-1]: told)
    tally.note = "share of the fires they stand for: " + ", ".join(told) if told else ""
    return tally.check


def rule(name: str, asked: int, broken: int, where: str) -> Check:
    """A rule that was held against rows elsewhere, as a Check."""
    return Check(name, asked, broken, None, 0, 0, where)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:16]}..."

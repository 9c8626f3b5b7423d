"""What two SAEs, or two features, have in common: counts and judgements, no model needed.

In:  what is recorded of two SAEs; examples of two features.
Out: what can be compared of them and what cannot, in sentences; documents in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.records import Example


@dataclass(frozen=True)
class Made:
    """What an SAE was made from, as far as it is recorded."""

    name: str
    d_in: int
    d_sae: int
    site: str | None
    model: str | None  # its name
    weights: str | None  # of the model: tells models of one name apart
    corpus: tuple | None  # text, documents and tokens of its harvest; None: not harvested


@dataclass(frozen=True)
class Comparable:
    """What may be set beside each other."""

    directions: bool  # decoder directions: whether `neighbours --other` can be run at all
    together: bool  # activations on the same tokens
    remarks: tuple[str, ...]  # what the reader must know


def comparable(a: Made, b: Made) -> Comparable:
    """What can be compared of two SAEs."""
    remarks = []
    same_model = a.weights is not None and a.weights == b.weights
    if a.weights is None or b.weights is None:
        unknown = " and ".join(one.name for one in (a, b) if one.weights is None)
        remarks.append(
            f"{unknown} does not record its language model: whether the two read the same one "
            "cannot be told."
        )
    elif not same_model:
        remarks.append(
            f"They read different language models ({a.model} and {b.model}): features cannot be "
            "matched, and losses are not on one scale."
        )
    if a.d_in != b.d_in:
        remarks.append(
            f"Their sites are of different widths ({a.d_in:,} and {b.d_in:,}): directions cannot "
            "be compared, so features cannot be matched."
        )
    elif same_model and a.site != b.site:
        remarks.append(
            f"They read different sites ({a.site} and {b.site}): a decoder cosine compares "
            "directions of two places of the model, which need not mean the same; correlation of "
            "activations is the safer match."
        )
    if a.d_sae != b.d_sae:
        remarks.append(
            f"They have different numbers of features ({a.d_sae:,} and {b.d_sae:,}): compare "
            "shares, not counts."
        )
    if None not in (a.corpus, b.corpus) and a.corpus != b.corpus:
        remarks.append(
            "They were harvested on different text, or different amounts of it: densities and "
            "maxima are not on quite the same scale."
        )
    return Comparable(a.d_in == b.d_in and (same_model or None in (a.weights, b.weights)),
                      same_model, tuple(remarks))  # fmt: skip


def in_common(
    a: Sequence[Example], b: Sequence[Example], same_corpus: bool
) -> list[tuple[Example, Example]]:
    """The strongest example of each in the documents that both have one in, by A's activation.

    Documents are the same by number in one corpus, else by name.
    """

    def key(example: Example) -> object:
        return example.doc if same_corpus else example.document

    best_a, best_b = _strongest(a, key), _strongest(b, key)
    found = [(best_a[doc], best_b[doc]) for doc in best_a if doc in best_b]
    return sorted(found, key=lambda two: -two[0].max)


def _strongest(examples: Sequence[Example], key) -> Mapping[object, Example]:
    found: dict[object, Example] = {}
    for example in examples:
        if example.max > 0:
            before = found.setdefault(key(example), example)
            if example.max > before.max:
                found[key(example)] = example
    return found

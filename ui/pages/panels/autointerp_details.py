"""What stands beside the value of one result: strata, further measures, the corpus, best and worst
case.

In:  a `ResultRow`. Out: a popover-sized panel; absent numbers are absent.
"""

from __future__ import annotations

import streamlit as st

from data.judged import ResultRow
from ui.cards import safe
from ui.pages.panels import autointerp_words as words
from ui.pages.panels.autointerp_windows import STRATA


def show(row: ResultRow) -> None:
    """The further numbers of a result, folded away."""
    parts = [_corpus(row), _others(row)]
    said = [part for part in parts if part]
    if said:
        st.html('<div class="ai-note">' + "<br>".join(safe(one) for one in said) + "</div>")
    if row.reasons:
        found = list(row.reasons.items())[:6]
        st.html(words.chips([(f"{n:,} × {why}", "failed") for why, n in found], wide=True))
    cases = _cases(row)
    if cases:
        with st.expander("Best and worst case of what failed"):
            st.write(cases)
    strata = row.details.get("strata") or {}
    if strata:
        with st.expander("By stratum of the mix"):
            rows = [([safe(STRATA.get(name, name)), *_cells(one)], False)
                    for name, one in strata.items()]  # fmt: skip
            heads = ("Windows", "r", "Answered", "Mean activation", "Mean prediction")
            st.html(words.table(heads, rows))
            st.caption("The mix is fixed and the same for all features, so that scores can be "
                       "compared; it is not the corpus.")  # fmt: skip


def _cells(one: dict) -> list[str]:
    means = ["–" if one.get(name) is None else f"{one[name]:.3g}" for name in ("real", "said")]
    r = "–" if one.get("r") is None else f"{one['r']:.2f}"
    return [r, f"{one.get('n', 0):,}", *means]


def _corpus(row: ResultRow) -> str:
    """By inclusion probability: what it would be over the corpus."""
    found = row.details.get("corpus")
    if not found:
        return ""
    if found.get("value") is None:
        return f"Over the corpus: not known ({found.get('reason') or 'no sample by rank'})."
    said = words.value(found)
    ess = found.get("ess")
    rests = "" if ess is None else f"; worth {ess:,.1f} tokens drawn evenly"
    n = found.get("n")
    rests += "" if n is None else f", from {n:,} sampled peaks"
    doubt = f" {found['reason']}." if found.get("reason") else ""
    return (
        f"Over the corpus, weighted by how much each window stands for: r = {said}{rests}.{doubt}"
    )


def _cases(row: ResultRow) -> str:
    """Had what failed been answered rightly, or as wrongly as can be."""
    best, worst = row.details.get("best"), row.details.get("worst")
    if best is None and worst is None:
        return ""
    return (f"{row.n - row.n_ok:,} windows failed. Had they been answered perfectly: "
            f"{words.number(best)}; as wrongly as can be: {words.number(worst)}.")  # fmt: skip


def _others(row: ResultRow) -> str:
    """Further measures of the same answers."""
    details = row.details
    names = (("spearman", "Spearman"), ("auc", "AUC"), ("r2", "R²"), ("hits", "hits"),
             ("false_alarms", "false alarms"), ("chance", "chance"))  # fmt: skip
    said = [f"{label} {words.number(details[key])}" for key, label in names
            if isinstance(details.get(key), (int, float))]  # fmt: skip
    trivial = details.get("trivial") or {}
    if trivial:
        told = ", ".join(f"{name} {words.number(v)}" for name, v in trivial.items())
        said.append(f"strategies that read nothing: {told}")
    if details.get("documents"):
        said.append(f"{details['documents']:,} documents, {details.get('tokens', 0):,} tokens")
    return "; ".join(said)

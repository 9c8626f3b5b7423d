"""How two features are related, and the ways on: to the previous and next match, and swapped.

In:  two Subjects, neighbours files if there are any. Out: the panel; a job's button if there are
     none.
"""

from __future__ import annotations

import html

import streamlit as st

from data import compare_store
from data.errors import WorkbenchError
from data.neighbours_store import NeighboursStore
from ui import cards
from ui.keys.compare import CompareView, Side
from ui.pages.panels import compare_table, feature_job
from ui.pages.panels.compare_side import Subject, go
from ui.pages.panels.compare_table import PairRow
from ui.shell import Shell, plain, show_error

SUGGESTED = 8
MEASURES = (  # kind, name, what it says
    ("decoder", "Decoder cosine", "Whether they write in the same direction"),
    ("encoder", "Encoder cosine", "Whether they read the same direction"),
    ("correlation", "Correlation", "Of their activations on a sample of tokens"),
    ("coactivation", "Co-activation", "PMI in nats: how much oftener they fire together than by "
     "chance"),
)  # fmt: skip


def between(shell: Shell, a: str, b: str) -> NeighboursStore | None:
    """Nearest features in SAE `b` of those of `a`, which may be the same; None: not computed, or
    before one of them was trained anew."""
    store = shell.named(a).neighbours(None if a == b else b)
    if store is None or a == b:
        return store
    own = shell.named(b)
    weights = store.meta.get("other_weights_sha256")
    stale = own.harvested and weights not in (None, own.store().meta["weights_sha256"])
    return None if stale else store


def offer(shell: Shell, a: str, b: str, absent: str) -> None:
    """The job that finds how the features of two SAEs, or of one, are related."""
    words = ["neighbours", a] + ([] if a == b else ["--other", b])
    title = f"Find neighbours of {a}" + ("" if a == b else f" in {b}")
    feature_job.offer(shell, f"compare.{a}.{b}", absent, words, "Compute", title)


def ways(shell: Shell, view: CompareView, a: Subject, b: Subject) -> None:
    """Previous and next match, and the two swapped."""
    before, after, what = _around(shell, view, a, b)

    def show(sides: tuple[Side, Side] | None) -> None:
        if sides is not None:
            go(shell, view, a=sides[0], b=sides[1])

    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.button(
            "Previous match", icon=":material/chevron_left:", shortcut="Left", on_click=show,
            args=(before,), disabled=before is None,
        )  # fmt: skip
        st.button(
            "Swap", icon=":material/swap_horiz:", shortcut="X", on_click=show,
            args=((view.b, view.a),), help="A becomes B, and B becomes A",
        )  # fmt: skip
        st.button(
            "Next match", icon=":material/chevron_right:", shortcut="Right", on_click=show,
            args=(after,), disabled=after is None,
        )  # fmt: skip
        st.caption(plain(what))


def _around(shell: Shell, view: CompareView, a: Subject, b: Subject) -> tuple:
    """(pair before, pair after, where the two stand among the matches)."""
    try:
        store = between(shell, a.sae, b.sae)
    except WorkbenchError:  # it is told where the measures stand
        store = None
    if store is None:
        return None, None, "Matches have not been computed."
    first, second = a.stats.feature, b.stats.feature
    if a.sae == b.sae:
        near = [n.other for n in store.neighbours(first, "decoder")["decoder"]]
        at = near.index(second) if second in near else -1
        if not near or (at < 0 and not near):
            return None, None, "A has no nearest features."
        pairs = [(Side(a.sae, first), Side(a.sae, other)) for other in near]
        what = (
            f"B is the {at + 1} of {len(near)} nearest to A by decoder cosine."
            if at >= 0
            else f"B is not among the {len(near)} nearest to A by decoder cosine."
        )
        return (*_beside(pairs, at), what)
    found = compare_store.matches(store, view.kind)
    at = found.place(first, second)
    if at is None:
        own = [(Side(a.sae, first), Side(b.sae, int(found.other[i])))
               for i in (found.feature == first).nonzero()[0]]  # fmt: skip
        what = f"B is not A’s best match by {view.kind}" + ("; the next one is." if own else ".")
        return None, (own[0] if own else None), what
    n = len(found.feature)
    pairs = {
        i: (Side(a.sae, int(found.feature[i])), Side(b.sae, int(found.other[i])))
        for i in (at - 1, at + 1)
        if 0 <= i < n
    }
    what = f"Match {at + 1:,} of {n:,} by {view.kind}, the closest first."
    return pairs.get(at - 1), pairs.get(at + 1), what


def _beside(pairs: list, at: int) -> tuple:
    before = pairs[at - 1] if at > 0 else None
    return before, (pairs[at + 1] if at + 1 < len(pairs) else None)


def measures(shell: Shell, a: Subject, b: Subject) -> None:
    """Cosines, correlation and co-activation, where they are stored."""
    st.markdown("##### How alike they are")
    try:
        store = between(shell, a.sae, b.sae)
        if store is None:
            offer(shell, a.sae, b.sae, "Cosines, correlation and co-activation are not computed.")
            return
        st.html(_measures(shell, a, b, store))
    except WorkbenchError as error:
        show_error(error)


def _measures(shell: Shell, a: Subject, b: Subject, store: NeighboursStore) -> str:
    first, second = a.stats.feature, b.stats.feature
    found = compare_store.pair(store, first, second)
    back = between(shell, b.sae, a.sae)
    mirrored = compare_store.pair(back, second, first) if back is not None else {}
    last = compare_store.farthest(store, first)
    rows = []
    for kind, name, about in MEASURES:
        near = found.get(kind) or mirrored.get(kind)
        if near is not None:
            told, level = f"{near.value:.3f}", max(0.0, min(1.0, near.value))
            if kind == "coactivation":  # it has no largest value
                told, level = f"{near.value:+.2f} nats", None
        elif kind not in store.meta["kinds"]:
            told, level = "not computed", 0.0
        elif kind in last:
            told, level = f"below {last[kind]:.3f}", 0.0
        else:
            told, level = "–", 0.0
        rows.append((name, about, told, level))
    counted = next(iter([*found.values(), *mirrored.values()]), None)
    lines = "".join(
        f'<tr title="{html.escape(about)}"><th scope="row">{html.escape(name)}</th>'
        f"<td>{_meter(level)}</td><td>{html.escape(told)}</td></tr>"
        for name, about, told, level in rows
    )
    note = ""
    if counted is not None and counted.together is not None:
        given = (counted.given_this, counted.given_other)
        this, other = given if found else given[::-1]
        note = (
            f'<p class="about">On {store.meta.get("tokens") or 0:,} sampled tokens both fire on '
            f"{counted.together:,}: B on {cards.percent(this)} of A’s tokens, A on "
            f"{cards.percent(other)} of B’s.</p>"
        )
    elif not found and not mirrored:
        note = (
            '<p class="about">Neither is among the other’s nearest, of which the file keeps '
            f"{len(next(iter(store.neighbours(first).values()), ()))}.</p>"
        )
    return f'<table class="alike"><tbody>{lines}</tbody></table>{note}'


def _meter(level: float | None) -> str:
    if level is None:
        return ""
    return f'<span class="meter"><i style="width:{100 * level:.0f}%"></i></span>'


def suggestions(shell: Shell, view: CompareView) -> None:
    """What to look at while one of the two is missing: A’s nearest, or the closest pairs."""
    a, b = view.a, view.b
    try:
        store = between(shell, a.sae, b.sae)
        if store is None:
            what = "Which features are near each other is not computed."
            offer(shell, a.sae, b.sae, what)
            return
        if a.feature is None:
            title, rows = "Closest pairs", _closest(compare_store.matches(store, "decoder"))
        else:
            title = f"Nearest to feature {a.feature} in {b.sae}"
            near = store.neighbours(a.feature, "decoder")["decoder"][:SUGGESTED]
            rows = [PairRow(a.feature, one.other, one.value) for one in near]
        drawn = compare_table.pairs(shell, (a.sae, b.sae), rows, "cosine", view.kind)
    except WorkbenchError as error:
        show_error(error)
        return
    if rows:
        st.markdown(f"##### {plain(title)}", help="By decoder cosine")
        st.html(drawn)


def _closest(found: compare_store.Matches) -> list[PairRow]:
    """The closest pairs, each once."""
    out: dict[frozenset[int], PairRow] = {}
    for f, g, value in zip(found.feature, found.other, found.value, strict=True):
        if len(out) == SUGGESTED:
            break
        out.setdefault(frozenset((int(f), int(g))), PairRow(int(f), int(g), float(value)))
    return list(out.values())

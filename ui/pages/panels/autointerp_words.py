"""Auto-interp in plain words: methods, baselines, statuses, judges; and small blocks of HTML.

In:  names as the program stores them. Out: what a page calls them; escaped HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ui import cards
from ui.cards import safe

METHODS = {  # method -> (name, what its number is, chance)
    "simulate": ("Simulation", "Pearson’s r of predicted and real activations over the tokens of "
                 "windows the judge never saw.", 0.0),
    "estimate": ("Largest level", "Spearman’s ρ of the estimated and the real largest activation "
                 "of each unseen window.", 0.0),
    "detect": ("Detection", "Balanced accuracy of telling windows in which it fires from windows "
               "in which it is silent.", 0.5),
    "fuzz": ("Fuzzing", "Balanced accuracy of telling rightly marked tokens from wrongly marked "
             "ones.", 0.5),
    "intruder": ("Intruder", "Share of rounds in which the one silent window among firing ones was "
                 "found; no explanation is used.", 0.2),
}  # fmt: skip
ARMS = {
    "own": "its explanation", "lexical": "token lookup", "shuffled": "another feature’s",
    "empty": "no explanation",
}  # fmt: skip
ARM_HELP = {
    "own": "The explanation of the feature itself.",
    "lexical": "A table of tokens fitted on the explain split, on the same windows.",
    "shuffled": "The explanation of another feature that fires about as often.",
    "empty": "The judge is told nothing.",
}
STATUSES = {
    "ok": "scored", "constant": "constant", "withheld": "withheld", "failed": "failed",
    "not_run": "not run",
}  # fmt: skip
STATUS_HELP = {
    "ok": "A value with its interval.",
    "constant": "The prediction was the same everywhere: a correlation is undefined. It counts as "
    "0 in means, and the mean without such features stands beside it.",
    "withheld": "More than a fifth of the windows failed: no value is given.",
    "failed": "Nothing could be read from the judge’s replies.",
    "not_run": "Nothing was asked, as with a feature that never fires or a cap that was reached.",
}
PROTOCOLS = {
    "activations": ("Levels", "Every token with its activation from 0 to 10."),
    "marked": ("Marked text", "Running text with the strong tokens marked."),
    "max_and_logits": ("Tokens and logits", "Strongest tokens, what follows them, what the "
                       "feature promotes, and texts."),
    "contrastive": ("Near misses", "Firing windows beside similar ones that are silent."),
}  # fmt: skip
MODES = {
    "held-out": ("Held-out text", "Predict on windows of the score split, which no explanation was "
                 "written from."),
    "paper": ("As in the JumpReLU paper", "Predict on the very windows that were explained. For "
              "comparison only: such scores are too high. Parts of that protocol are known from "
              "memory only, so its published numbers need not come out."),
}  # fmt: skip
PAPER = (
    "Predicted on the windows that were explained, as the JumpReLU paper does: not a score on "
    "unseen text. Parts of that protocol are known from memory only."
)


def judge(name: str | None) -> str:
    """Who wrote or predicted, in words."""
    known = {"lexical": "token lookup", "people": "people", None: "unknown", "": "unknown"}
    return known.get(name, name)


def value(mean: Mapping | None, signed: bool = False) -> str:
    """A mean with its interval, `0.61 [0.55, 0.67]`; an en dash if absent."""
    if mean is None or mean["value"] is None:
        return "–"
    form = "{:+.2f}" if signed else "{:.2f}"
    said = form.format(mean["value"])
    if mean["low"] is not None:
        said += f" [{form.format(mean['low'])}, {form.format(mean['high'])}]"
    return said


def number(found: float | None, signed: bool = False) -> str:
    return "–" if found is None else f"{found:+.2f}" if signed else f"{found:.2f}"


def chips(counts: Iterable[tuple[str, str]], wide: bool = False) -> str:
    """(text, kind) as a row of small badges."""
    name = "ai-chip wide" if wide else "ai-chip"
    body = "".join(f'<span class="{name} {kind}">{safe(text)}</span>' for text, kind in counts)
    return f'<div class="ai-counts">{body}</div>' if body else ""


def status_chips(statuses: Mapping[str, int]) -> str:
    """How many features have which status."""
    known = [name for name in STATUSES if statuses.get(name)]
    others = [name for name in statuses if name not in STATUSES]
    return chips((f"{statuses[n]:,} {STATUSES.get(n, n)}", n if n in STATUSES else "")
                 for n in [*known, *others])  # fmt: skip


def table(
    heads: Sequence[str],
    rows: Iterable[tuple[Sequence[str], bool]],
    caption: str = "",
    running: int | None = None,
) -> str:
    """A table; rows: (cells, whether it is the one on show). Cells are HTML, escaped by who made
    them; the first is a heading. running: number of a column of running text."""
    top = "".join(f"<th>{safe(head)}</th>" for head in heads)
    body = ""
    for (first, *cells), on in rows:
        inner = "".join(
            f"<td{' class=words' if n == running else ''}>{cell}</td>"
            for n, cell in enumerate(cells, 1)
        )
        body += f"<tr{' class=on' if on else ''}><th>{first}</th>{inner}</tr>"
    title = f"<caption>{safe(caption)}</caption>" if caption else ""
    return (
        f'<div class="ai-scroll"><table class="ai">{title}<thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def big(entries: Iterable[tuple[str, str, str, str]]) -> str:
    """Large numbers in boxes: (name, number, what stands beside it, help)."""
    body = "".join(
        f'<div title="{safe(about)}"><small>{safe(name)}</small>'
        f"<b>{safe(main)}</b> <i>{safe(beside)}</i></div>"
        for name, main, beside, about in entries
    )
    return f'<div class="ai-big">{body}</div>'


def split_value(mean: Mapping | None, signed: bool = False) -> tuple[str, str]:
    """A mean as (number, interval)."""
    said = value(mean, signed)
    main, _, rest = said.partition(" ")
    return main, rest


def of_row(method: str, row: object) -> str:
    """A result row in one line, as cards.result_text has it."""
    return cards.result_text(
        method, row.status, row.value, row.low, row.high, row.n_ok, row.n, row.wanted, row.reason
    )

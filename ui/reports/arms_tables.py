"""A study over several SAEs in words and tables, and as Markdown.

In:  the report's JSON (interp/arms_report.py). Out: `Table`s, what is amiss, one Markdown text. The
     page (arms_page.py) shows the same tables: numbers are written once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

AXES = {
    "simulate": "Pearson's r of predicted and real activations",
    "estimate": "Spearman's ρ of estimated and real largest levels",
    "detect": "balanced accuracy of detection (chance ½)",
    "fuzz": "balanced accuracy of fuzzing (chance ½)",
    "intruder": "share of intruders found (chance ⅕)",
}
NOTE = (
    "Intervals (95 %) are of features as units: what the numbers would be had other features of "
    "these SAEs been drawn, not had other SAEs been trained. They are not corrected for how many "
    "there are. A constant prediction counts 0; what failed counts nowhere, and is listed."
)


@dataclass(frozen=True)
class Table:
    title: str
    about: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def arms_markdown(report: Mapping[str, Any]) -> str:
    """The same numbers as text."""
    lines = [f"# Study {report['study']}", "", asked(report), ""]
    lines += [f"**{line}**\n" for line in warnings(report)]
    lines += [NOTE, ""]
    for method, found in report["methods"].items():
        lines += [f"## {method}", "", f"{AXES.get(method, method)}.", ""]
        for table in tables_of(found):
            lines += _as_markdown(table)
    return "\n".join([*lines, *_as_markdown(plan_table(report))]).rstrip() + "\n"


def asked(report: Mapping[str, Any]) -> str:
    """What was asked, in one line."""
    seen = {"held-out": "text never shown", "paper": "the very text that was explained"}
    return (
        f"judge {report['judge']}, protocol {report['protocol']}, scored on "
        f"{seen.get(report['mode'], report['mode'])}; {report['wanted']} features an arm, seed "
        f"{report['seed']}, plan {report['plan_sha256'][:16]}"
    )


def warnings(report: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the numbers."""
    out = []
    if report["not_run"]:
        out.append(f"Not run yet, and not in here: {', '.join(report['not_run'])}.")
    open_ones = {sae: n for sae, n in report["unanswered"].items() if n}
    if open_ones:
        told = ", ".join(f"{sae} {n:,}" for sae, n in open_ones.items())
        out.append(f"Calls without an answer: {told}. Run the study again before reading on.")
    if report["codes"] > 1:
        out.append("The arms ran by different versions of this program.")
    if report["mode"] == "paper":
        out.append("Scored on the text that was explained: an explanation can repeat what it saw.")
    if report["judge"] == "lexical":
        out.append("The judge is the token-lookup baseline: this says how much tokens alone tell.")
    return out


def tables_of(found: Mapping[str, Any]) -> list[Table]:
    """Everything found by one method."""
    arms = found["arms"]
    baselines = sorted({name for arm in arms for name in arm["lift"]})
    tables = [
        Table(
            "Groups", "All features of a group's SAEs together.",
            ("group", "SAEs", "features", "mean", "without constants", "median", "sd"),
            tuple(
                (g["group"], str(len(g["saes"])), str(g["mean"]["n"]), mean_text(g["mean"]),
                 mean_text(g["without_constants"]), written(g["median"]), written(g["sd"]))
                for g in found["groups"]
            ),
        ),
        Table(
            "Differences", "First minus second, resampled independently. Beats: how often a "
            "feature of the first scores above one of the second (½: no difference). In sd: the "
            "difference in deviations within the groups. At like frequency: within the bands of "
            "frequency below that both have, weighted by how many features tell of it.",
            ("first", "second", "difference", "beats", "in sd", "at like frequency"),
            tuple(
                (d["first"], d["second"], mean_text(d, signed=True), written(d["beats"]),
                 written(d["sds"]), mean_text(d["like_frequency"], signed=True))
                for d in found["differences"]
            ),
        ),
        Table(
            "Arms", "L0 is of the harvested corpus; weighted: by how often features fire. Windows: "
            "asked about, of those wanted; a harvest with more examples has more of them.",
            ("SAE", "group", "L0", "scored", "mean", "without constants", "weighted", "median",
             "windows"),
            tuple(
                (a["sae"], a["group"], written(a["l0"]), f"{a['mean']['n']} of {a['wanted']}",
                 *(mean_text(a[key]) for key in ("mean", "without_constants", "by_frequency")),
                 written(a["median"]), f"{a['windows']:,} of {a['windows_wanted']:,}")
                for a in arms
            ),
        ),
    ]  # fmt: skip
    if found["paired"]:
        tables.append(Table(
            "Feature by feature", "Arms with the same feature numbers: mean of the differences.",
            ("first", "second", "difference", "pairs"),
            tuple((p["first"], p["second"], mean_text(p, signed=True), str(p["n"]))
                  for p in found["paired"]),
        ))  # fmt: skip
    if baselines:
        tables.append(Table(
            "Lift", "Score less the baseline's on the same windows, features that have both.",
            ("SAE", *(f"over {name}" for name in baselines)),
            tuple((a["sae"], *(mean_text(a["lift"].get(name), signed=True) for name in baselines))
                  for a in arms),
        ))  # fmt: skip
    return [*tables, _by_band(found), _dense(arms), _statuses(arms)]


def _by_band(found: Mapping[str, Any]) -> Table:
    groups = [g["group"] for g in found["groups"]]
    return Table(
        "By frequency", "Mean, and how many features, by the share of tokens they fire on.",
        ("fires on", *groups),
        tuple(
            (f"{_percent(band['low'])} to {_percent(band['high'])}",
             *(f"{mean_text(band['groups'][g])} ({band['groups'][g]['n']})" for g in groups))
            for band in found["bands"]
        ),
    )  # fmt: skip


def _dense(arms: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        "High-frequency features",
        "Those that fire on more than 10 % of tokens, against L0.",
        ("SAE", "L0", "features", "mean"),
        tuple(
            (a["sae"], written(a["l0"]), str(a["dense"]["n"]), mean_text(a["dense"]))
            for a in sorted(arms, key=lambda a: (a["l0"] is None, a["l0"] or 0.0, a["sae"]))
        ),
    )


def _statuses(arms: Sequence[Mapping[str, Any]]) -> Table:
    kinds = sorted({kind for a in arms for kind in a["statuses"]}, key=lambda k: (k != "ok", k))
    return Table(
        "What could not be scored", "Features by status; windows whose answer was of no use; why.",
        ("SAE", *(kind.replace("_", " ") for kind in kinds), "windows failed", "reasons"),
        tuple(
            (a["sae"], *(str(a["statuses"].get(kind, 0)) for kind in kinds),
             f"{a['windows_failed']:,} of {a['windows']:,}",
             "; ".join(f"{reason} ({n})" for reason, n in a["reasons"].items()) or "–")
            for a in arms
        ),
    )  # fmt: skip


def plan_table(report: Mapping[str, Any]) -> Table:
    shown = ("study", "plan_sha256", "judge", "protocol", "mode", "wanted", "least_fires", "strata",
             "seed")  # fmt: skip
    rows = [(name.replace("_", " "), str(report[name])) for name in shown]
    rows += [(f"asked with {k}", str(v)) for k, v in report["asking"].items() if v is not None]
    rows += [
        (f"{a['sae']}: weights, store", f"{a['weights_sha256'][:16]}, {a['store_content'][:16]}")
        for a in report["arms"]
    ]
    return Table("The plan", "Frozen before anything was asked.", ("what", ""), tuple(rows))


def written(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def mean_text(mean: Mapping[str, Any] | None, signed: bool = False) -> str:
    if mean is None or mean["value"] is None:
        return "–"
    form = "+.3f" if signed else ".3f"
    ends = "" if mean["low"] is None else f" [{mean['low']:{form}}, {mean['high']:{form}}]"
    return f"{mean['value']:{form}}{ends}"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _as_markdown(table: Table) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        clean = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
        return f"| {' | '.join(clean)} |"

    rule = "|" + " --- |" * len(table.head)
    rows = [line(row) for row in table.rows]
    return [f"### {table.title}", "", table.about, "", line(table.head), rule, *rows, ""]

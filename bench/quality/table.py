"""What the results say: each arm at each point, and its paired difference to our JumpReLU.

In: a plan with its lines. Out: rows of numbers, and their text. Read at one L0: linear in log L0
between the arm's own runs of one seed, and not beyond them (EDGE of bench/quality/plan.py apart).

A difference is taken seed by seed, each seed giving both arms the same starting weights and the
same batches. Its interval is Student's t for 95 %: with three seeds 2.5 standard deviations of the
differences to either side. It speaks of other seeds only: not of another text, model or tuning. It
takes the differences as normal, which three of them cannot show; read it as an order of size.
"""

from __future__ import annotations

import statistics

from scipy.stats import t as student

from bench.quality.arms import DATA, JUMPRELU, DataSet
from bench.quality.plan import Plan, at

READ = ("fve", "delta_loss", "dead", "high_freq_10", "gamma")
DIFFERENT = ("fve", "delta_loss")


def measured(plan: Plan, data: DataSet, arm: str, seed: int) -> list[dict]:
    """The finished lines of an arm's reported runs of one seed."""
    lines = (plan.lines.get(run.id, {}) for run in plan.reported(data, arm, seed))
    return [line for line in lines if "heldout" in line]


def read_at(lines: list[dict], name: str, l0: float) -> float | None:
    """A held-out measure at l0; None outside the range of the lines, or where one is undefined."""
    points = [(line["heldout"]["l0"], line["heldout"][name]) for line in lines]
    return None if any(y is None for _, y in points) else at(points, l0)


def interval(values: list[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its 95 % interval; None for less than two values."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return mean, None
    return mean, float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5


def rows(plan: Plan) -> list[dict]:
    """One row for each data set, point and arm that has a finished run."""
    found = []
    for name in plan.data:
        data = DATA[name]
        lines = {
            (arm, seed): measured(plan, data, arm, seed)
            for arm in {*plan.arms, JUMPRELU}
            for seed in plan.seeds
        }
        for l0 in data.points:
            for arm in plan.arms:
                if any(lines[arm, seed] for seed in plan.seeds):
                    found.append(_row(plan, data, l0, arm, lines))
    return found


def _row(plan: Plan, data: DataSet, l0: float, arm: str, lines: dict) -> dict:
    row = {"data": data.name, "l0": l0, "arm": arm}
    row["loss"], row["lr"] = plan.chosen(data, arm)
    for name in READ:
        by_seed = {seed: read_at(lines[arm, seed], name, l0) for seed in plan.seeds}
        known = {seed: value for seed, value in by_seed.items() if value is not None}
        row[name] = statistics.fmean(known.values()) if known else None
        if name in DIFFERENT:
            row[f"{name}_seeds"] = len(known)
            row[f"{name}_spread"] = statistics.stdev(known.values()) if len(known) > 1 else None
            ours = {seed: read_at(lines[JUMPRELU, seed], name, l0) for seed in known}
            pairs = [known[seed] - ours[seed] for seed in known if ours[seed] is not None]
            mean, half = interval(pairs) if pairs and arm != JUMPRELU else (None, None)
            row[f"{name}_minus_ours"], row[f"{name}_interval"] = mean, half
    every = [line for seed in plan.seeds for line in lines[arm, seed]]
    row["ms_per_step"] = statistics.median(line["ms_per_step"] for line in every)
    return row


def text(found: list[dict]) -> str:
    """The rows as a table: FVE in units of 1e-4 where it is a spread, an interval or a difference,
    delta loss in nats."""
    out, head = [], None
    for row in found:
        if (row["data"], row["l0"]) != head:
            head = row["data"], row["l0"]
            out += ["", f"{row['data']}, L0 {row['l0']}", HEADER]
        out.append(_line(row))
    return "\n".join(out[1:])


HEADER = (
    f"{'arm':<26}{'lr':>8}{'seeds':>6}{'FVE':>8}{'spread':>8}{'- ours, 1e-4':>18}"
    f"{'d loss':>9}{'- ours':>19}{'dead':>8}{'> 10 %':>8}{'gamma':>7}{'ms/step':>9}"
)


def _line(row: dict) -> str:
    minus = _difference(row["fve_minus_ours"], row["fve_interval"], 1e4, 1)
    loss_minus = _difference(row["delta_loss_minus_ours"], row["delta_loss_interval"], 1, 4)
    spread = None if row["fve_spread"] is None else 1e4 * row["fve_spread"]
    return (
        f"{row['arm']:<26}{_number(row['lr'], '.1e'):>8}{row['fve_seeds']:>6}"
        f"{_number(row['fve'], '.4f'):>8}{_number(spread, '.1f'):>8}{minus:>18}"
        f"{_number(row['delta_loss'], '.4f'):>9}{loss_minus:>19}{_number(row['dead'], '.1%'):>8}"
        f"{_number(row['high_freq_10'], '.1%'):>8}{_number(row['gamma'], '.3f'):>7}"
        f"{_number(row['ms_per_step'], '.1f'):>9}"
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _difference(mean: float | None, half: float | None, factor: float, digits: int) -> str:
    if mean is None:
        return "-"
    shown = f"{factor * mean:+.{digits}f}"
    return shown if half is None else f"{shown} +-{factor * half:.{digits}f}"


def points(plan: Plan) -> list[dict]:
    """Every finished reported run on its own: what an arm reached where it has no value at a
    point."""
    found = []
    for name in plan.data:
        for arm in plan.arms:
            for seed in plan.seeds:
                for line in measured(plan, DATA[name], arm, seed):
                    run = {k: line[k] for k in ("data", "arm", "loss", "lr", "seed", "knob")}
                    found.append(run | {"wanted": line["l0"]} | line["heldout"])
    return found


def points_text(found: list[dict]) -> str:
    """Arms by run: wanted and held-out L0, FVE, delta loss, dead."""
    form = "{:<10}{:<26}{:>5}{:>8}{:>10}{:>9}{:>8}{:>9}{:>8}"
    names = ("data", "arm", "seed", "wanted", "knob", "L0", "FVE", "d loss", "dead")
    lines = [form.format(*names)]
    for p in found:
        lines.append(
            form.format(
                p["data"], p["arm"], p["seed"], f"{p['wanted']:.4g}", _number(p["knob"], ".3g"),
                f"{p['l0']:.2f}", f"{p['fve']:.4f}", _number(p["delta_loss"], ".4f"),
                f"{p['dead']:.1%}",
            )
        )  # fmt: skip
    return "\n".join(lines)


def choices(plan: Plan) -> list[dict]:
    """Each arm's tuned settings with their FVE on the calibrate documents kept for choosing."""
    found = []
    for name in plan.data:
        for arm in plan.arms:
            for run_id, line in plan.lines.items():
                tuned = line["data"] == name and line["arm"] == arm and line["seed"] == 0
                if tuned and line["l0"] == DATA[name].tuned_at and "calibrate" in line:
                    run = {k: line[k] for k in ("data", "arm", "loss", "lr", "knob")}
                    found.append(run | line["calibrate"] | {"id": run_id})
    return found

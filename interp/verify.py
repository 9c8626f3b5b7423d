"""Stored examples held against what model, SAE and text say of them now.

In:  rows of the `example` table, the pre-activations' unit of each feature, a `Recomputer`.
Out: a `Check` for each kind of number: activations, values at the peak, pre-activations, windows,
     silence where a kind promises it.

A token on which only one of the two sides fires is a flip, and no difference, if its
pre-activation clears or misses the threshold by no more than float noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from interp.recompute import BATCH, Activations, Recomputer, margin
from interp.tally import Check, Tally
from sae.models import TopKSAE


class ExampleRows(NamedTuple):
    """Columns of the table `example`, [n] each; lists end to end, those of row i between
    ends[i] and ends[i + 1]."""

    feature: np.ndarray
    kind: np.ndarray
    part: np.ndarray
    rank: np.ndarray
    doc: np.ndarray
    start: np.ndarray
    length: np.ndarray
    peak: np.ndarray
    max: np.ndarray
    pre: np.ndarray
    ends: np.ndarray  # [n + 1]
    act_index: np.ndarray
    act_value: np.ndarray

    def name(self, i: int) -> str:
        """Where row i is found in the store."""
        part = f" {self.part[i]}" if self.part[i] else ""
        return f"feature {self.feature[i]} {self.kind[i]}{part} {self.rank[i]}"

    def activations(self, i: int) -> np.ndarray:
        """float64 [length]: what row i says of each token of its context."""
        dense = np.zeros(self.length[i])
        here = slice(self.ends[i], self.ends[i + 1])
        dense[self.act_index[here]] = self.act_value[here]
        return dense


@dataclass(frozen=True)
class VerifyStep:
    """Progress: contexts through the model."""

    done: int
    total: int


class ExampleCheck:
    """Recomputes examples, context by context: iterate for progress, then read `checks`."""

    def __init__(
        self,
        recomputer: Recomputer,
        rows: ExampleRows,
        chosen: np.ndarray,
        pre_unit: np.ndarray,
        tolerance: float,
    ) -> None:
        """chosen: the row numbers to look at. pre_unit: [d_sae], what pre-activations are measured
        in; NaN where no row asks for it."""
        self.recomputer, self.rows = recomputer, rows
        self.chosen, self.pre_unit = chosen, pre_unit
        names = "example windows, example activations, example peaks, example pre-activations"
        self.tallies = {name: Tally(name, tolerance) for name in names.split(", ")}
        self.tallies["silent examples"] = Tally("silent examples", tolerance)

    @property
    def checks(self) -> list[Check]:
        return [tally.check for tally in self.tallies.values()]

    @torch.inference_mode()
    def __iter__(self) -> Iterator[VerifyStep]:
        rows, chosen = self.rows, self.chosen
        if len(chosen) == 0:
            return
        names = self.recomputer.contexts.names(rows.doc[chosen], rows.start[chosen])
        contexts, of = np.unique(names, axis=0, return_inverse=True)
        order = np.argsort(of.ravel(), kind="stable")
        bounds = np.searchsorted(of.ravel()[order], np.arange(len(contexts) + 1))
        order = chosen[order]
        for first in range(0, len(contexts), BATCH):
            some = contexts[first : first + BATCH]
            found = self.recomputer.activations(some)
            for number in range(len(some)):
                members = order[bounds[first + number] : bounds[first + number + 1]]
                self._context(found, number, members)
            yield VerifyStep(first + len(some), len(contexts))

    def _context(self, found: Activations, row: int, members: np.ndarray) -> None:
        """The examples `members`, all of one context."""
        re, at = self.recomputer, found.contexts
        features, which = np.unique(self.rows.feature[members], return_inverse=True)
        of = torch.from_numpy(features).to(re.W.device)
        framed = re.sae.token_frame(found.x[row])[0]
        if isinstance(re.sae, TopKSAE):
            pre = framed @ re.W + re.b
            clear, pre = margin(re.sae, pre, None)[:, of], pre[:, of]
        else:  # in float64, so that only the model's own rounding is left
            pre = framed.double() @ re.W[:, of].double() + re.b[of].double()
            clear = margin(re.sae, pre, of)
        value = torch.where(clear > 0, re.sae.values(pre, of).relu(), 0.0)
        sizes = torch.linalg.vector_norm(framed, dim=-1)[:, None] * re.lengths[of]
        slope = _slope(re.sae, of)
        parts = (pre, clear, value, re.noise * sizes, re.noise * sizes * slope)
        columns = [part.double().cpu().numpy().T[which] for part in parts]
        for number, i in enumerate(members.tolist()):
            here = np.flatnonzero(at.doc[row] == self.rows.doc[i])
            self._example(i, at.position[row, here], found.keep[row, here],
                          found.unsure[row, here], *(c[number, here] for c in columns))  # fmt: skip

    def _example(
        self,
        i: int,
        position: np.ndarray,
        keep: np.ndarray,
        unsure: np.ndarray,
        pre: np.ndarray,
        clear: np.ndarray,
        value: np.ndarray,
        noise: np.ndarray,
        value_noise: np.ndarray,
    ) -> None:
        """Row i against its context; arrays [tokens of its document there]."""
        rows, tallies, name = self.rows, self.tallies, self.rows.name
        whole = rows.start[i] == position[0] and rows.length[i] == len(position)
        sound = whole and 0 <= rows.peak[i] < rows.length[i]
        tallies["example windows"].expect(
            np.array([sound]),
            lambda _: (
                f"{name(i)}: tokens {rows.start[i]} to {rows.start[i] + rows.length[i]} with "
                f"peak {rows.peak[i]}; the context has {position[0]} to {position[-1] + 1}"
            ),
        )
        if not sound:
            return
        stored, value = rows.activations(i), np.where(keep, value, 0.0)
        undecided = (np.abs(clear) <= noise) & keep | unsure
        flips = undecided & ((stored > 0) != (value > 0))
        tallies["example activations"].add(
            stored[~flips],
            value[~flips],
            lambda j: f"{name(i)} token {np.flatnonzero(~flips)[j]}",
            value_noise[~flips],
        )
        tallies["example activations"].add_flips(flips.sum())
        peak = int(rows.peak[i])
        if not flips[peak]:
            tallies["example peaks"].add(
                rows.max[i : i + 1], value[[peak]], lambda _: name(i), value_noise[[peak]]
            )
        # The same number twice in the store: to the last bit.
        tallies["example peaks"].expect(
            np.array([np.float32(stored[peak]) == np.float32(rows.max[i])]),
            lambda _: f"{name(i)}: max {rows.max[i]:.9g}, act_value at the peak {stored[peak]:.9g}",
        )
        tallies["example pre-activations"].add(
            rows.pre[i : i + 1],
            pre[[peak]],
            lambda _: name(i),
            noise[[peak]],
            self.pre_unit[rows.feature[i]],
        )
        if rows.kind[i] in ("random", "near_miss"):
            silent = rows.max[i] == 0 and (value[peak] == 0 or bool(undecided[peak]))
            tallies["silent examples"].expect(
                np.array([silent]), lambda _: f"{name(i)}: fires with {value[peak]:.6g}"
            )


def _slope(sae, features: torch.Tensor) -> torch.Tensor | float:
    """d activation / d pre-activation of firing features [n]."""
    r_mag = getattr(sae, "r_mag", None)
    return 1.0 if r_mag is None else r_mag.detach()[features].exp()

"""What is compared with what: data sets, arms, tuned settings, and one training run of one arm.

In: nothing. Out: DATA, ARMS, Run; the configuration of each run of ours, and a hash of how a run
was made, by which results of an older recipe are told apart.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property

from sae.config import TrainConfig
from sae.presets import preset

# Raised by hand when code that decides a result changes without a field of TrainConfig changing.
RECIPE = 2
BATCH = 2048
SEEDS = (0, 1, 2)
OUTWARD = 1.06  # the outermost points of a peer are aimed so far out, to hold the wanted ones


@dataclass(frozen=True)
class DataSet:
    """Activations to train on, and the numbers of active features that are reported."""

    name: str
    site: str
    corpus_tokens: int
    per_document: int | None
    d_sae: int
    steps: int
    points: tuple[int, ...]
    tuned_at: int  # the point at which settings are chosen


DATA = {
    data.name: data
    for data in (
        DataSet("stories", "resid_post.2", 500_000, None, 1024, 3000, (4, 8, 16, 24), 16),
        DataSet("demo", "resid_post.2", 1_000_000, 16, 2048, 1000, (8, 16, 32, 64), 32),
        DataSet("demo-mlp", "mlp_out.2", 1_000_000, 16, 2048, 1000, (8, 16, 32, 64), 32),
    )
}


@dataclass(frozen=True)
class Arm:
    """An architecture of ours: it hits the L0 it is given. Tuned: lr, 3 values."""

    architecture: str
    changes: dict = field(default_factory=dict)
    preset: str = "small_budget"

    @property
    def lrs(self) -> tuple[float, ...]:
        """The preset's own learning rate, half and twice that; the own one first."""
        own = _preset(self.preset, self.architecture).lr
        return own, own / 2, own * 2


@dataclass(frozen=True)
class Peer:
    """A library's JumpReLU. Its L0 is a result, so its knob is searched until L0 fits.

    Tuned: the loss, at the first lr, then lr; the first is where short trials found the best.
    Settings from its documentation (`lrs` None) are neither tuned nor searched: the knob is the
    wanted L0 itself, at seed 0 alone.
    """

    library: str  # environment .peers/LIBRARY and driver bench/peers/LIBRARY.py
    losses: tuple[str, ...]  # recipes the driver knows
    lrs: tuple[float, ...] | None
    slope: dict[str, float] = field(default_factory=dict)  # guess of d log L0 / d log knob
    first: dict[str, float] = field(default_factory=dict)  # knob at L0 16; else the L0 itself


JUMPRELU = "jumprelu"  # the arm that all others are compared with
ARMS: dict[str, Arm | Peer] = {
    JUMPRELU: Arm("jumprelu"),
    "jumprelu-mlp": Arm("jumprelu", preset="small_budget_mlp"),
    "batchtopk": Arm("batchtopk"),
    "saelens": Peer(
        "saelens", ("step", "quadratic"), (1e-2, 5e-3, 2e-2), {"step": -0.7}, {"step": 2e-3}
    ),
    "dictionary_learning": Peer("dictionary_learning", ("scaled",), (4e-3, 2e-3, 8e-3)),
    "gated": Arm("gated"),
    "topk": Arm("topk"),
    "relu": Arm("relu"),
    "relu-weighted": Arm("relu", {"penalty": "weighted_l1", "decoder_norm": "free"}),
    "matryoshka": Arm("matryoshka"),
    "saelens-docs": Peer("saelens", ("docs-quadratic",), None),
    "dictionary_learning-demo": Peer("dictionary_learning", ("demo",), None),
}


@dataclass(frozen=True)
class Run:
    """One training run."""

    data: str
    arm: str
    l0: float  # wanted
    lr: float | None  # None: the recipe's own
    seed: int
    steps: int
    loss: str | None = None  # of a peer
    knob: float | None = None  # of a peer: its coefficient or its target

    @cached_property
    def id(self) -> str:
        """Names the run and the recipe it is made by."""
        return _hash([self.recipe, *(getattr(self, name) for name in self.__dataclass_fields__)])

    @cached_property
    def recipe(self) -> str:
        """Hash of how it is trained, whatever the seed and the number of steps.

        A peer starts from our starting weights, so those fields count for it too.
        """
        arm = ARMS[self.arm]
        if isinstance(arm, Arm):
            changes = arm.changes | {"l0": self.l0, "lr": self.lr, "batch": BATCH}
            key = tuple(sorted(changes.items()))
            return _recipe(RECIPE, arm.preset, arm.architecture, key)
        ours = _preset("small_budget", "jumprelu")
        of_start = ("start", "start_share", "theta", "warmup", "decay", "input_scale", "centre")
        return _hash([RECIPE, self.loss, {name: getattr(ours, name) for name in of_start}])

    def config(self) -> TrainConfig:
        """The recipe of a run of ours."""
        arm = ARMS[self.arm]
        changes = arm.changes | {"l0": self.l0, "lr": self.lr, "seed": self.seed}
        return preset(
            arm.preset, arm.architecture, tokens=self.steps * BATCH, batch=BATCH, **changes
        )


def run_of(line: dict) -> Run | None:
    """The run that a line of results records; None for arms that are no longer there."""
    if line["data"] not in DATA or line["arm"] not in ARMS:
        return None
    return Run(**{name: line[name] for name in Run.__dataclass_fields__})


@cache  # checking a TrainConfig takes milliseconds, and a plan asks thousands of times
def _preset(name: str, architecture: str, changes: tuple = ()) -> TrainConfig:
    return preset(name, architecture, **dict(changes))


@cache
def _recipe(number: int, name: str, architecture: str, changes: tuple) -> str:
    recipe = _without(asdict(_preset(name, architecture, changes)), "seed", "tokens")
    return _hash([number, recipe])


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _without(values: dict, *names: str) -> dict:
    return {name: value for name, value in values.items() if name not in names}

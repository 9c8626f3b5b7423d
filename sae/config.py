"""What to train and how, as frozen dataclasses; contradictions are refused with the cure.

In: numbers a person chose. Out: SAEConfig, TrainConfig; `Refused`, the room's one error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args, get_type_hints

from sae.jump import KERNELS

MAX_D_SAE = 2**22
# Saved as they are: jumprelu, relu, gated, topk. batchtopk and matryoshka exist in training only;
# they are saved as jumprelu with the threshold that training found.
ARCHITECTURES = ("jumprelu", "relu", "gated", "topk", "batchtopk", "matryoshka")
TOPK_FAMILY = ("topk", "batchtopk", "matryoshka")
TOKEN_NORMS = ("none", "layer_norm", "constant_norm_rescale")

# Sparsity terms, S(f) in L = reconstruction + coefficient * S(f); defined in sae/losses.py.
Penalty = Literal[
    "none", "l0", "target_l0", "quadratic_l0", "quadratic_frequency", "squared_frequency",
    "tanh", "l1", "weighted_l1", "lp",
]  # fmt: skip
STEP_PENALTIES = (
    "l0", "target_l0", "quadratic_l0", "quadratic_frequency", "squared_frequency",
)  # fmt: skip
NormUse = Literal["unit", "free"]


class Refused(ValueError):
    """Bad input to this room; the message names what was seen and the cure."""


def _refuse_unless(condition: bool, message: str) -> None:
    if not condition:
        raise Refused(message)


def _is_whole(n: object, lowest: int = 1) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= lowest


@dataclass(frozen=True)
class SAEConfig:
    """The shape of one sparse autoencoder."""

    d_in: int  # width of the activations
    d_sae: int  # number of features
    architecture: str = "jumprelu"
    k: int | None = None  # active features per row; architecture topk as saved
    d_out: int | None = None  # width of what a transcoder writes; None: d_in
    token_norm: str = "none"  # what is taken off each row before encoding (SAELens's names)

    def __post_init__(self) -> None:
        for name in ("d_in", "d_sae", "d_out"):
            n = getattr(self, name)
            _refuse_unless(
                (name == "d_out" and n is None) or (_is_whole(n) and n <= MAX_D_SAE),
                f"{name} is {n!r}: it must be a whole number from 1 to {MAX_D_SAE:,}",
            )
        _refuse_unless(
            self.architecture in ARCHITECTURES,
            f"architecture {self.architecture!r} is unknown: use one of {', '.join(ARCHITECTURES)}",
        )
        _refuse_unless(
            self.token_norm in TOKEN_NORMS,
            f"token_norm {self.token_norm!r} is unknown: use one of {', '.join(TOKEN_NORMS)}",
        )
        if self.k is not None or self.architecture == "topk":
            _refuse_unless(
                self.architecture == "topk" and _is_whole(self.k) and self.k <= self.d_sae,
                f"k is {self.k!r} for architecture {self.architecture}: topk takes a whole k from "
                f"1 to d_sae ({self.d_sae:,}), the others none",
            )

    @property
    def width_out(self) -> int:
        return self.d_in if self.d_out is None else self.d_out


@dataclass(frozen=True)
class TrainConfig:
    """How to train one architecture; `sae.presets` builds them. The field defaults are those of
    the `small_budget` preset for a JumpReLU.

    "Training units" are activations scaled by one scalar (and, with `centre`, about their mean)
    so that E||x||^2 = 1 (`input_scale` "unit") or E||x|| = sqrt(d_in) ("sqrt_d"); theta and
    bandwidth are in those units.
    """

    preset: str = "small_budget"  # whose recipe this is; recorded with the result
    architecture: str = "jumprelu"
    tokens: int = 2_000_000  # rows of activations to train on
    batch: int = 2048  # rows of one optimiser step
    seed: int = 0  # of the starting weights and of shuffling

    # -- sparsity: S(f), its price lambda, and what steers L0
    l0: float | None = 32.0  # wanted mean number of active features (k of the TopK family)
    control: Literal["fixed", "price", "shift", "k"] = "shift"
    # fixed: lambda stays; price: a loop steers lambda; shift: a loop moves theta; k: by selection
    penalty: Penalty = "l0"
    coefficient: float | None = None  # lambda; with control "price" where it starts
    coefficient_warmup: int | None = 0  # steps over which lambda rises from 0; None: all of them
    frequency_scale: float = 0.05  # f0 of quadratic_frequency
    tanh_scale: float = 4.0  # c of tanh
    exponent: float = 0.5  # p of lp
    penalty_decoder: Literal["frozen", "free"] = "free"  # gradient of decoder norms in S(f)
    pre_activation_coefficient: float = 0.0  # of sum_i ReLU(theta_i - pre_i) ||d_i||

    # -- theta and the straight-through window
    start: Literal["paper", "calibrated", "encoder_bias"] = "calibrated"
    theta: float | None = None  # threshold at step 0; None: each feature's own quantile
    log_theta: bool = True  # train log(theta) instead of theta
    theta_lr: float = 1e-2  # Adam's step for theta (for its log where log_theta)
    kernel: str = "rectangle"  # K; see sae.jump.KERNELS
    bandwidth: float | None = None  # eps, as a rectangle's; None: from the data
    bandwidth_rule: Literal["fixed", "occupancy", "per_feature", "silverman"] = "occupancy"
    kde_beta: float = 0.0  # of the running mean of theta's gradient; 0: this batch alone
    pre_relu: bool = False  # ReLU before jump and step
    pre_activation_gradient: float = 0.3  # share of the window gradient passed to pre-activations
    start_share: float = 0.25  # L0 aimed at first, as a share of l0
    start_until: float = 0.15  # share of the steps after which the aim is l0 itself

    # -- gated
    aux_decoder: Literal["frozen", "free"] = "frozen"  # of the auxiliary reconstruction

    # -- dead features
    dead_after: int = 50_000  # rows without firing after which a feature counts as dead
    dead_decay: float = 0.005  # share by which a dead feature's threshold falls each step
    aux_coefficient: float = 0.0  # of the error's reconstruction from dead features (AuxK)
    aux_k: int | None = None  # dead features per row in it; None: d_in / 2
    resample_at: tuple[float, ...] = ()  # shares of the steps at which dead features start anew

    # -- matryoshka
    groups: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 1.0)  # nested prefixes, shares of d_sae

    # -- optimiser
    lr: float = 5e-3  # Adam's step for weights and biases
    betas: tuple[float, float] = (0.9, 0.999)  # Adam's
    adam_eps: float = 1e-8  # Adam's
    warmup: int = 50  # steps over which lr rises
    warmup_shape: Literal["linear", "cosine"] = "linear"  # from 0, or by a cosine from .1 lr
    decay: float = 0.2  # last share of the steps, over which lr falls linearly to 0
    clip: float | None = None  # largest norm of the whole gradient
    decoder_norm: NormUse = "unit"  # rows kept at norm 1 (and gradients projected), or free
    freeze: tuple[str, ...] = ()  # weights that are not trained (W_enc, b_enc, ...)

    # -- input
    input_scale: Literal["unit", "sqrt_d"] = "unit"
    centre: bool = True  # subtract the mean activation; folded into the biases on save
    token_norm: str = "none"  # "layer_norm": each row about its mean, by its own deviation
    pre_encoder_bias: bool = False  # encode x - b_dec; folded into b_enc on save
    b_dec_start: Literal["zero", "median"] = "zero"  # or the rows' geometric median
    precision: Literal["float32", "bfloat16"] = "float32"  # of the encoder's matrix product

    def __post_init__(self) -> None:
        self._check_words()
        self._check_numbers()
        self._check_architecture()
        self._check_control()
        self._check_theta()
        self._check_steps()

    @property
    def n_steps(self) -> int:
        return self.tokens // self.batch

    @property
    def has_theta(self) -> bool:
        """Whether thresholds are trained: only a JumpReLU's are, and not where they stay at 0."""
        return self.architecture == "jumprelu" and self.theta != 0.0

    @property
    def has_window(self) -> bool:
        """Whether gradients pass through a straight-through window."""
        return self.architecture == "jumprelu"

    def _check_words(self) -> None:
        for name, kind in _plain_fields().items():
            seen = getattr(self, name)
            number = isinstance(seen, (int, float)) and not isinstance(seen, bool)
            right = {bool: isinstance(seen, bool), float: number, int: _is_whole(seen, 0)}[kind]
            _refuse_unless(right, f"{name} is {seen!r}: it must be {KINDS[kind]}")
        for name in ("l0", "coefficient", "theta", "bandwidth", "clip"):
            seen = getattr(self, name)
            number = isinstance(seen, (int, float)) and not isinstance(seen, bool)
            _refuse_unless(seen is None or number, f"{name} is {seen!r}: it must be a number")
        for name in ("betas", "resample_at", "groups", "freeze"):
            _refuse_unless(
                isinstance(getattr(self, name), (tuple, list)),
                f"{name} is {getattr(self, name)!r}: it must be several values, as (a, b)",
            )
        _refuse_unless(len(self.betas) == 2, f"betas are {self.betas}: give two")
        for name, words in _word_fields().items():
            seen = getattr(self, name)
            _refuse_unless(seen in words, f"{name} is {seen!r}: use one of {', '.join(words)}")
        for name, known in (("architecture", ARCHITECTURES), ("token_norm", TOKEN_NORMS)):
            seen = getattr(self, name)
            _refuse_unless(
                seen in known, f"{name} {seen!r} is unknown: use one of {', '.join(known)}"
            )

    def _check_numbers(self) -> None:
        for name in ("tokens", "batch", "dead_after"):
            n = getattr(self, name)
            _refuse_unless(_is_whole(n), f"{name} is {n!r}: it must be a whole number, 1 up")
        for name in ("warmup", "coefficient_warmup"):
            n = getattr(self, name)
            _refuse_unless(
                _is_whole(n, 0) or (name != "warmup" and n is None),
                f"{name} is {n!r}: it must be a whole number of steps, 0 up",
            )
        for name in ("lr", "adam_eps", "bandwidth", "clip", "frequency_scale", "tanh_scale"):
            n = getattr(self, name)
            _refuse_unless(
                n is None or (math.isfinite(n) and n > 0), f"{name} is {n!r}: it must be above 0"
            )
        for name in ("theta", "theta_lr", "coefficient", "pre_activation_coefficient",
                     "aux_coefficient"):  # fmt: skip
            n = getattr(self, name)
            _refuse_unless(
                n is None or (math.isfinite(n) and n >= 0), f"{name} is {n!r}: it must be 0 or more"
            )
        for name in ("pre_activation_gradient", "decay", "start_until", "dead_decay"):
            n = getattr(self, name)
            _refuse_unless(0 <= n <= 1, f"{name} is {n!r}: it must be from 0 to 1")
        for name in ("start_share", "exponent"):
            n = getattr(self, name)
            _refuse_unless(0 < n <= 1, f"{name} is {n!r}: it must be above 0 and at most 1")
        _refuse_unless(
            all(0 <= b < 1 for b in (*self.betas, self.kde_beta)),
            f"betas are {self.betas} and kde_beta {self.kde_beta}: each must be in [0, 1)",
        )
        _refuse_unless(
            self.aux_k is None or _is_whole(self.aux_k), f"aux_k is {self.aux_k!r}: give 1 or more"
        )
        _refuse_unless(
            all(0 < share < 1 for share in self.resample_at),
            f"resample_at is {self.resample_at}: shares of the steps, between 0 and 1",
        )
        nested = all(a < b for a, b in zip(self.groups, self.groups[1:], strict=False))
        _refuse_unless(
            nested and self.groups[:1] > (0.0,) and self.groups[-1:] == (1.0,),
            f"groups are {self.groups}: rising shares of d_sae that end at 1",
        )

    def _check_architecture(self) -> None:
        a = self.architecture
        allowed = {
            "jumprelu": get_args(Penalty),
            "relu": ("none", "l1", "weighted_l1", "lp", "tanh"),
            "gated": ("none", "l1", "weighted_l1", "lp", "tanh"),
        }.get(a, ("none",))
        _refuse_unless(
            self.penalty in allowed,
            f"penalty {self.penalty!r} has no gradient on a {a} SAE: use one of "
            f"{', '.join(allowed)}",
        )
        _refuse_unless(
            self.pre_activation_coefficient == 0 or (a == "jumprelu" and not self.pre_relu),
            "pre_activation_coefficient is for a JumpReLU without pre_relu: set it to 0",
        )
        _refuse_unless(
            self.penalty != "weighted_l1" or self.decoder_norm == "free",
            "weighted_l1 is l1 while decoder rows are kept at norm 1: set decoder_norm to free",
        )
        if a != "jumprelu":
            for name, plain in (("kde_beta", 0.0), ("kernel", "rectangle"), ("pre_relu", False),
                                ("bandwidth", None)):  # fmt: skip
                _refuse_unless(
                    getattr(self, name) == plain, f"{name} is for a jumprelu, not for a {a} SAE"
                )
        weights = ("W_enc", "b_enc", "W_dec", "b_dec", "theta", "r_mag", "b_mag")
        _refuse_unless(
            all(name in weights for name in self.freeze),
            f"freeze is {self.freeze}: name some of {', '.join(weights)}",
        )

    def _check_control(self) -> None:
        a, who = self.architecture, f"(preset {self.preset}, architecture {self.architecture})"
        if a in TOPK_FAMILY:
            _refuse_unless(
                self.control == "k" and self.l0 is not None and self.l0 >= 1,
                f"{a} keeps a fixed number of features: it takes an l0 of at least 1 and "
                f"control 'k'; got l0 {self.l0}, control {self.control!r}",
            )
            _refuse_unless(
                a != "topk" or float(self.l0).is_integer(),
                f"l0 is {self.l0}: topk keeps a whole number of features in every row",
            )
        else:
            _refuse_unless(self.control != "k", f"control 'k' is for {', '.join(TOPK_FAMILY)} only")
        _refuse_unless(
            self.control != "shift" or self.has_theta,
            f"control 'shift' moves the thresholds of a JumpReLU {who}: use 'price' or 'fixed'",
        )
        _refuse_unless(
            self.control == "fixed" or self.penalty not in ("target_l0", "quadratic_l0"),
            f"penalty {self.penalty} aims at l0 by itself: it takes control 'fixed' and a "
            "coefficient",
        )
        _refuse_unless(
            self.control != "shift" or "theta" not in self.freeze,
            "control 'shift' moves theta, which freeze holds: use control 'price' or 'fixed'",
        )
        if self.control == "fixed":
            needs_l0 = self.penalty in ("target_l0", "quadratic_l0")
            _refuse_unless(
                self.penalty == "none" or self.coefficient is not None,
                f"a fixed price {who} needs a coefficient (lambda) of 0 or more: give one, or "
                "give a target l0 with the small_budget preset",
            )
            _refuse_unless(
                (self.l0 is not None) == needs_l0 or self.start == "calibrated",
                f"a fixed price {who} with penalty {self.penalty} takes "
                f"{'an' if needs_l0 else 'no'} l0; got l0 {self.l0}: "
                "for a target L0 use the small_budget preset",
            )
        elif self.control in ("price", "shift"):
            _refuse_unless(
                self.l0 is not None and 1 <= self.l0 < math.inf,
                f"a target L0 {who} must be at least 1; got l0 {self.l0}",
            )
            _refuse_unless(
                self.control == "price" or self.coefficient is None,
                f"a target L0 {who} needs no coefficient (lambda), got {self.coefficient}: to set "
                "lambda yourself use the deepmind preset",
            )
            _refuse_unless(
                self.control == "shift" or self.penalty != "none",
                f"control 'price' {who} needs a penalty to put a price on",
            )
        _refuse_unless(
            self.l0 is None or 1 <= self.l0 < math.inf,
            f"l0 is {self.l0}: a target must be at least 1 active feature",
        )

    def _check_theta(self) -> None:
        _refuse_unless(
            self.kernel in KERNELS,
            f"kernel {self.kernel!r} is unknown: use one of {', '.join(KERNELS)}",
        )
        if self.start == "calibrated":
            _refuse_unless(
                self.l0 is not None and self.theta in (None, 0.0),
                "start 'calibrated' finds theta from a target l0; "
                f"got l0 {self.l0}, theta {self.theta}: give l0 and no theta, or start 'paper'",
            )
        elif self.architecture == "jumprelu":
            _refuse_unless(
                self.theta is not None,
                f"start {self.start!r} needs theta (the papers use .001); got none",
            )
        if not self.has_window:
            return
        _refuse_unless(
            self.bandwidth is not None or self.bandwidth_rule != "fixed" or self.l0 is not None,
            "a fixed bandwidth must be given, or a target l0 to derive it from "
            "(the papers use .001)",
        )
        _refuse_unless(
            self.bandwidth is None or self.bandwidth_rule == "fixed",
            f"bandwidth {self.bandwidth} is given, so bandwidth_rule must be 'fixed', "
            f"not {self.bandwidth_rule!r}",
        )
        _refuse_unless(
            self.theta != 0.0
            or (not self.log_theta and self.pre_activation_gradient > 0 and not self.pre_relu),
            "theta 0 has no logarithm and is trained through the pre-activations alone: set "
            "log_theta and pre_relu to false, pre_activation_gradient above 0",
        )

    def _check_steps(self) -> None:
        longest = max(self.warmup, self.coefficient_warmup or 0)
        cure = f"give {(longest + 1) * self.batch:,} tokens or more"
        if not self.preset.startswith("small_budget") and self.n_steps > type(self).warmup:
            cure += ", or use the small_budget preset"
        _refuse_unless(
            self.n_steps >= 1,
            f"{self.tokens:,} tokens do not fill one batch of {self.batch:,}: "
            "give more tokens or a smaller batch",
        )
        _refuse_unless(
            self.n_steps > longest,
            f"{self.tokens:,} tokens are {self.n_steps:,} steps, but warm-up takes {longest:,} "
            f"(preset {self.preset}): {cure}",
        )


KINDS = {bool: "true or false", float: "a number", int: "a whole number, 0 up"}


@cache
def _plain_fields() -> dict[str, type]:
    """The fields of TrainConfig that are one number, or true or false."""
    hints = get_type_hints(TrainConfig)
    return {name: hint for name, hint in hints.items() if hint in KINDS}


@cache
def _word_fields() -> dict[str, tuple[str, ...]]:
    """The fields of TrainConfig that hold one of a few words, and the words."""
    hints = {name: get_args(hint) for name, hint in get_type_hints(TrainConfig).items()}
    return {
        name: words
        for name, words in hints.items()
        if words and all(isinstance(word, str) for word in words)
    }


def check_pair(sae: SAEConfig, train: TrainConfig) -> None:
    """Refuses a shape and a recipe that do not fit each other."""
    _refuse_unless(
        sae.architecture == train.architecture,
        f"the SAE's architecture is {sae.architecture}, the recipe's {train.architecture}",
    )
    _refuse_unless(
        train.l0 is None or train.l0 <= sae.d_sae / 2,
        f"a target l0 of {train.l0} is more than half of {sae.d_sae} features: "
        f"use an l0 up to {sae.d_sae / 2:g} or a larger d_sae",
    )


def shape_for(d_in: int, d_sae: int, train: TrainConfig) -> SAEConfig:
    """The shape that a recipe trains on activations d_in wide. Refuses what does not fit."""
    k = None
    if train.architecture == "topk" and _is_whole(d_sae):
        k = min(int(train.l0), d_sae)  # check_pair refuses a k that is too large
    shape = SAEConfig(d_in, d_sae, train.architecture, k, None, train.token_norm)
    check_pair(shape, train)
    return shape

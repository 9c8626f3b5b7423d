"""What to train and how, as frozen dataclasses; contradictions are refused with the cure.

In: numbers a person chose. Out: SAEConfig, TrainConfig, PRESETS; `Refused`, the room's one error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

MAX_D_SAE = 2**22
ARCHITECTURES = ("jumprelu",)


class Refused(ValueError):
    """Bad input to this room; the message names what was seen and the cure."""


def _refuse_unless(condition: bool, message: str) -> None:
    if not condition:
        raise Refused(message)


@dataclass(frozen=True)
class SAEConfig:
    """The shape of one sparse autoencoder."""

    d_in: int  # width of the activations
    d_sae: int  # number of features
    architecture: str = "jumprelu"

    def __post_init__(self) -> None:
        for name in ("d_in", "d_sae"):
            n = getattr(self, name)
            _refuse_unless(
                isinstance(n, int) and 1 <= n <= MAX_D_SAE,
                f"{name} is {n!r}: it must be a whole number from 1 to {MAX_D_SAE:,}",
            )
        _refuse_unless(
            self.architecture in ARCHITECTURES,
            f"architecture {self.architecture!r} is unknown: use one of {', '.join(ARCHITECTURES)}",
        )


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the `small_budget` preset.

    "Training units" are activations scaled by one scalar (and, with `centre`, about their mean)
    so that E||x||^2 = 1; theta and bandwidth are in those units.
    """

    preset: str = "small_budget"  # whose recipe this is; recorded with the result
    tokens: int = 2_000_000  # rows of activations to train on
    batch: int = 2048  # rows of one optimiser step
    l0: float | None = 32.0  # wanted mean number of active features; with control "shift"
    l0_coefficient: float | None = None  # lambda of lambda * L0; with control "lambda"
    control: Literal["lambda", "shift"] = "shift"  # what steers L0: a price, or theta itself
    start: Literal["paper", "calibrated"] = "calibrated"  # weights and theta at step 0
    lr: float = 7e-3  # Adam's step for weights and biases
    theta_lr: float = 1e-2  # Adam's step for theta (for its log where log_theta)
    betas: tuple[float, float] = (0.9, 0.999)  # Adam's
    adam_eps: float = 1e-8  # Adam's
    warmup: int = 50  # steps over which lr rises
    warmup_shape: Literal["linear", "cosine"] = "linear"  # from 0, or by a cosine from .1 lr
    decay: float = 0.2  # last share of the steps, over which lr falls linearly to 0
    l0_warmup: int = 0  # steps over which lambda rises linearly from 0
    bandwidth: float | None = None  # eps of the straight-through window; None: adapts to the data
    theta: float | None = None  # threshold at step 0; None: each feature's own quantile
    log_theta: bool = True  # train log(theta) instead of theta
    pre_relu: bool = False  # ReLU before jump and step
    pre_encoder_bias: bool = False  # encode x - b_dec; folded into b_enc on save
    pre_activation_gradient: float = 0.3  # share of the window gradient passed to pre-activations
    centre: bool = True  # subtract the mean activation; folded into the biases on save
    seed: int = 0  # of the starting weights and of shuffling

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_sparsity()
        _refuse_unless(
            self.n_steps >= 1,
            f"{self.tokens:,} tokens do not fill one batch of {self.batch:,}: "
            "give more tokens or a smaller batch",
        )
        longest = max(self.warmup, self.l0_warmup)
        _refuse_unless(
            self.n_steps > longest,
            f"{self.tokens:,} tokens are {self.n_steps:,} steps, but warm-up takes {longest:,}: "
            "give more tokens, or set warmup and l0_warmup lower",
        )

    @property
    def n_steps(self) -> int:
        return self.tokens // self.batch

    def _check_numbers(self) -> None:
        for name in ("tokens", "batch"):
            n = getattr(self, name)
            _refuse_unless(
                isinstance(n, int) and n >= 1, f"{name} is {n!r}: it must be a whole number, 1 up"
            )
        for name in ("lr", "adam_eps", "bandwidth", "theta"):
            n = getattr(self, name)
            _refuse_unless(
                n is None or (math.isfinite(n) and n > 0), f"{name} is {n!r}: it must be above 0"
            )
        for name in ("theta_lr", "warmup", "l0_warmup"):
            n = getattr(self, name)
            _refuse_unless(math.isfinite(n) and n >= 0, f"{name} is {n!r}: it must be 0 or more")
        for name in ("pre_activation_gradient", "decay"):
            n = getattr(self, name)
            _refuse_unless(0 <= n <= 1, f"{name} is {n!r}: it must be from 0 to 1")
        _refuse_unless(
            all(0 <= b < 1 for b in self.betas), f"betas are {self.betas}: each must be in [0, 1)"
        )
        _refuse_unless(
            self.warmup_shape in ("linear", "cosine"),
            f"warmup_shape is {self.warmup_shape!r}: use linear or cosine",
        )

    def _check_sparsity(self) -> None:
        _refuse_unless(
            self.control in ("lambda", "shift"),
            f"control is {self.control!r}: use lambda (with l0_coefficient) or shift (with l0)",
        )
        _refuse_unless(
            self.start in ("paper", "calibrated"),
            f"start is {self.start!r}: use paper or calibrated",
        )
        if self.control == "lambda":
            coefficient = self.l0_coefficient
            _refuse_unless(
                self.l0 is None and coefficient is not None and 0 <= coefficient < math.inf,
                f"control 'lambda' (preset {self.preset}) takes an l0_coefficient of 0 or more and "
                f"no l0; got l0_coefficient {coefficient}, l0 {self.l0}: "
                "for a target L0 use the small_budget preset",
            )
        else:
            _refuse_unless(
                self.l0_coefficient is None and self.l0 is not None and 1 <= self.l0 < math.inf,
                f"control 'shift' (preset {self.preset}) takes a target l0 of at least 1 and no "
                f"l0_coefficient; got l0 {self.l0}, l0_coefficient {self.l0_coefficient}: "
                "to set lambda yourself use the deepmind preset",
            )
        if self.start == "calibrated":
            _refuse_unless(
                self.l0 is not None and self.theta is None,
                "start 'calibrated' finds theta from a target l0; "
                f"got l0 {self.l0}, theta {self.theta}: give l0 and no theta, or start 'paper'",
            )
        else:
            _refuse_unless(
                self.theta is not None and self.bandwidth is not None,
                "start 'paper' needs theta and bandwidth (the papers use .001 for both); "
                f"got theta {self.theta}, bandwidth {self.bandwidth}",
            )
        _refuse_unless(
            self.bandwidth is not None or self.control == "shift",
            "control 'lambda' needs a bandwidth (the papers use .001)",
        )


PRESETS = {
    # Rajamanoharan et al. 2024 (arXiv 2407.14435) App. I and Lieberum et al. 2024 (Gemma Scope,
    # arXiv 2408.05147) sec. 3.2: complete. 4e9 tokens is Gemma Scope's 16k width.
    "deepmind": TrainConfig(
        preset="deepmind",
        tokens=4_000_000_000,
        batch=4096,
        l0=None,
        l0_coefficient=6e-4,
        control="lambda",
        start="paper",
        lr=7e-5,
        theta_lr=7e-5,
        betas=(0.0, 0.999),
        warmup=1000,
        warmup_shape="cosine",
        decay=0.0,
        l0_warmup=10_000,
        bandwidth=1e-3,
        theta=1e-3,
        log_theta=True,
        pre_relu=True,
        pre_encoder_bias=True,
        pre_activation_gradient=0.0,
        centre=False,
    ),
    # Own: the recipe of docs/METHODS.md for runs of 1e6 to 1e8 tokens, where theta cannot travel
    # far under the papers' learning rate.
    "small_budget": TrainConfig(),
}


def preset(name: str, **changes) -> TrainConfig:
    """The named preset with some fields changed. Refuses an unknown name or field."""
    _refuse_unless(name in PRESETS, f"preset {name!r} is unknown: use one of {', '.join(PRESETS)}")
    try:
        return replace(PRESETS[name], **changes)
    except TypeError as error:
        raise Refused(f"preset {name!r} has no such field: {error}") from None


def check_pair(sae: SAEConfig, train: TrainConfig) -> None:
    """Refuses a target L0 that the dictionary cannot serve sparsely."""
    _refuse_unless(
        train.l0 is None or train.l0 <= sae.d_sae / 2,
        f"a target l0 of {train.l0} is more than half of {sae.d_sae} features: "
        f"use an l0 up to {sae.d_sae / 2:g} or a larger d_sae",
    )

"""Whose recipe a run follows: the published ones with their source, and our own for small budgets.

In: a preset's name, an architecture, changes. Out: a checked TrainConfig. Fields not named keep
TrainConfig's defaults, which are small_budget's for a JumpReLU.
"""

from __future__ import annotations

import dataclasses

from sae.config import Refused, TrainConfig

_DEEPMIND = {
    "tokens": 4_000_000_000,  # Gemma Scope's 16k width
    "batch": 4096,
    "l0": None,
    "control": "fixed",
    "coefficient": 6e-4,  # about L0 50 at Gemma 2 9B layer 20
    "coefficient_warmup": 10_000,
    "start": "paper",
    "theta": 1e-3,
    "theta_lr": 7e-5,
    "bandwidth": 1e-3,
    "bandwidth_rule": "fixed",
    "pre_relu": True,
    "pre_activation_gradient": 0.0,
    "start_share": 1.0,
    "dead_after": 10_000_000,
    "dead_decay": 0.0,
    "lr": 7e-5,
    "betas": (0.0, 0.999),
    "warmup": 1000,
    "warmup_shape": "cosine",
    "decay": 0.0,
    "centre": False,
    "pre_encoder_bias": True,
}
_GATED_PAPER = {
    **_DEEPMIND,
    "tokens": 1_228_800_000,  # 300,000 steps
    "penalty": "l1",
    "coefficient": 0.04,  # for E||x||^2 = 1 and a sum of squares; the paper's own units differ
    "coefficient_warmup": 0,
    "theta": None,
    "bandwidth": None,
    "bandwidth_rule": "occupancy",
    "pre_relu": False,
    "lr": 3e-4,
    "resample_at": (1 / 12, 1 / 6, 1 / 4, 1 / 3),
}
_PRICE = {"control": "price", "penalty": "l1", "start_share": 1.0, "dead_after": 200_000}
_TOPK = {
    "control": "k",
    "penalty": "none",
    "start_share": 1.0,
    "dead_after": 200_000,
    "aux_coefficient": 1 / 32,
}

# preset -> architecture -> fields; the first architecture is the preset's own.
PRESETS: dict[str, dict[str, dict]] = {
    # Own: the recipe of docs/METHODS.md for runs of 1e6 to 1e8 tokens, where theta cannot travel
    # far under the papers' learning rate; the other architectures share all that they can.
    "small_budget": {
        "jumprelu": {},
        "gated": {**_PRICE, "coefficient": 0.2},
        "relu": {**_PRICE, "coefficient": 0.05},
        "topk": {**_TOPK, "lr": 3e-3},
        "batchtopk": _TOPK,
        "matryoshka": _TOPK,
    },
    # Own: the same where dead features decide, as at an MLP's output: a price that rises with a
    # feature's frequency spreads the work, and nothing starts sparser than it ends.
    "small_budget_mlp": {
        "jumprelu": {
            "penalty": "quadratic_frequency",
            "frequency_scale": 0.02,
            "start_share": 1.0,
            "dead_decay": 0.03,
        }
    },
    # Rajamanoharan et al. 2024 (arXiv 2407.14435) App. I and Lieberum et al. 2024 (Gemma Scope,
    # arXiv 2408.05147) sec. 3.2: complete.
    "deepmind": {"jumprelu": _DEEPMIND},
    # Gemma Scope 2 technical paper (2025) eq. 5 and sec. 2: quadratic L0. Its coefficients are not
    # published (lambda here is Gemma Scope's), nor is its second term against frequent features.
    "gemma_scope_2": {
        "jumprelu": {
            **_DEEPMIND,
            "l0": 50.0,
            "penalty": "quadratic_l0",
            "coefficient_warmup": 50_000,
        }
    },
    # Anthropic, Circuits Updates January 2025, as two independent re-implementations have it.
    "anthropic_2025": {
        "jumprelu": {
            "tokens": 1_000_000_000,
            "batch": 32_768,
            "l0": None,
            "control": "fixed",
            "penalty": "tanh",
            "coefficient": 20.0,
            "coefficient_warmup": None,
            "pre_activation_coefficient": 3e-6,
            "start": "encoder_bias",
            "theta": 0.1,
            "theta_lr": 2e-4,
            "bandwidth": 2.0,
            "bandwidth_rule": "fixed",
            "pre_activation_gradient": 1.0,
            "start_share": 1.0,
            "dead_after": 10_000_000,
            "dead_decay": 0.0,
            "lr": 2e-4,
            "warmup": 0,
            "clip": 1.0,
            "decoder_norm": "free",
            "input_scale": "sqrt_d",
            "centre": False,
        }
    },
    # Rajamanoharan et al. 2024 (Gated SAEs, arXiv 2404.16014) App. D: Adam, batch, steps,
    # resampling; its ReLU baseline has its own learning rate.
    "gated_paper": {"gated": _GATED_PAPER, "relu": {**_GATED_PAPER, "lr": 1e-3}},
    # Gao et al. 2024 (arXiv 2406.04093) sec. 2 and App. A, and its published training code.
    "openai_topk": {
        "topk": {
            **_TOPK,
            "tokens": 1_310_720_000,
            "batch": 131_072,
            "start": "paper",
            "dead_after": 10_000_000,
            "lr": 1e-4,
            "adam_eps": 6.25e-10,
            "warmup": 0,
            "decay": 0.0,
            "centre": False,
            "token_norm": "layer_norm",
            "pre_encoder_bias": True,
            "b_dec_start": "median",
        }
    },
}


FIT = "fit"  # the preset that recipes on a finished SAE record
_FIT = {"preset": FIT, "l0": None, "start": "paper", "start_share": 1.0}
_MAGNITUDES = {
    **_FIT,
    "control": "fixed",
    "penalty": "none",
    "freeze": ("W_enc", "b_enc", "W_dec", "b_dec"),
}
_FINE_TUNED = {**_FIT, "theta": 1e-2, "l0": 32.0}

# What can be fitted on a finished SAE -> architecture and fields, over small_budget.
FITS: dict[str, tuple[str, dict]] = {
    # Gated SAE paper (arXiv 2404.16014) sec. 5.2: a ReLU SAE with its magnitudes corrected.
    "rescale_shift": ("gated", _MAGNITUDES),
    "rescale": ("gated", {**_MAGNITUDES, "freeze": (*_MAGNITUDES["freeze"], "b_mag")}),
    # Own: how much of a JumpReLU's gain its thresholds give, with and without the encoder.
    "jumprelu": ("jumprelu", _FINE_TUNED),
    "jumprelu_frozen_encoder": ("jumprelu", {**_FINE_TUNED, "freeze": ("W_enc", "b_enc")}),
}


def fitting(name: str, **changes) -> TrainConfig:
    """The recipe that fits a finished SAE anew in one respect, with some fields changed."""
    if name not in FITS:
        raise Refused(f"fit {name!r} is unknown: use one of {', '.join(FITS)}")
    architecture, fields = FITS[name]
    return preset("small_budget", architecture, **{**fields, **changes})


def preset(name: str, architecture: str | None = None, **changes) -> TrainConfig:
    """The named recipe for an architecture (None: the preset's own) with some fields changed.

    Refuses an unknown name or field, and an architecture that the preset has no recipe for.
    """
    if name not in PRESETS:
        raise Refused(f"preset {name!r} is unknown: use one of {', '.join(PRESETS)}")
    recipes = PRESETS[name]
    architecture = next(iter(recipes)) if architecture is None else architecture
    if architecture not in recipes:
        raise Refused(
            f"preset {name} has no recipe for architecture {architecture!r}, only for "
            f"{', '.join(recipes)}: use the small_budget preset, or one of those"
        )
    known = {"preset": name, "architecture": architecture, **recipes[architecture]}
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    for field in changes:
        if field not in fields:
            raise Refused(f"preset {name!r} has no such field: {field}")
    if "lr" in changes and "theta_lr" in known and known["theta_lr"] == known.get("lr"):
        changes = {"theta_lr": changes["lr"], **changes}  # the papers have one rate for all
    return TrainConfig(**{**known, **changes})

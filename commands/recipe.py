"""What a person says on the command line -> a checked TrainConfig.

In:  preset, architecture, the common numbers, and `--set FIELD=VALUE` for any other field.
Out: TrainConfig; Refused with the cure where they contradict each other.
"""

from __future__ import annotations

import ast

from sae.config import Refused, TrainConfig
from sae.presets import fitting, preset

WORDS = {"true": True, "yes": True, "false": False, "no": False, "none": None}


def recipe(
    preset_name: str,
    architecture: str | None,
    fit: str | None,
    settings: tuple[str, ...],
    **common: object,
) -> TrainConfig:
    """The recipe; `common` are fields of TrainConfig, None where nothing was said."""
    changes = {name: value for name, value in common.items() if value is not None}
    changes |= parsed(settings)
    for name in ("preset", "architecture"):
        if name in changes:
            raise Refused(f"--set {name}=...: say it with --{'arch' if name[0] == 'a' else name}")
    if fit is not None:
        if architecture is not None or preset_name != "small_budget":
            raise Refused(
                f"--fit {fit} decides the architecture and the recipe: leave --arch and "
                "--preset out"
            )
        return fitting(fit, **changes)
    return preset(preset_name, architecture, **changes)


def parsed(settings: tuple[str, ...]) -> dict[str, object]:
    """FIELD=VALUE strings as a dict; values as Python writes them, words as they are.

    parsed(("lr=1e-3", "kernel=gaussian", "betas=(0.9, 0.99)")) ->
        {"lr": 0.001, "kernel": "gaussian", "betas": (0.9, 0.99)}
    """
    result = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise Refused(f"--set {setting!r}: write FIELD=VALUE, for instance lr=1e-3")
        if value.lower() in WORDS:
            result[name] = WORDS[value.lower()]
            continue
        try:
            result[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            result[name] = value
    return result

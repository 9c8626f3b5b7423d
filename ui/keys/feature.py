"""The address of the Feature page: which feature, and how its examples are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ui.keys import reading

# Tabs of the examples: kind and part in the store.
KINDS = {
    "top": ("top", ""), "q99": ("quantile", "0.99-1"), "q90": ("quantile", "0.9-0.99"),
    "q50": ("quantile", "0.5-0.9"), "q0": ("quantile", "0-0.5"), "active": ("active", ""),
    "under": ("near_miss", "under"), "token": ("near_miss", "token"), "random": ("random", ""),
}  # fmt: skip
CONTEXTS = {"5": 5, "16": 16, "64": 64, "full": None}  # tokens around the peak; None: all
# Sections below the examples, in the order of the page; only the chosen one is drawn.
PANELS = ("causal", "neighbours", "predicted", "test", "steer", "provenance")
TEXT_CHARACTERS = 4000


@dataclass(frozen=True)
class FeatureView:
    """How the Feature page shows its examples."""

    feature: int | None = None  # None: no feature named in the address
    kind: str = "top"  # one of KINDS
    context: str = "16"  # a key of CONTEXTS
    centre: bool = False  # one line an example, the peak token in the middle
    breaks: bool = False  # line breaks as breaks
    own_scale: bool = False  # colour to each row's maximum, not to the feature's
    example: int | None = None  # number of the example that is computed again, from 1
    scaled: bool = True  # logit effects through the final norm's scale
    panel: str = "causal"  # one of PANELS
    losses: bool = False  # colour the ablated examples by the change of the loss
    other: str = ""  # neighbours in another SAE of that name
    text: str = ""  # the text it is tested on


VIEW_KEYS = (
    "f", "kind", "ctx", "centre", "breaks", "scale", "ex", "norm", "panel", "colour", "other",
    "text",
)  # fmt: skip


def read_view(params: Mapping[str, str]) -> FeatureView:
    """The Feature page's address; WorkbenchError listing every value that does not fit."""
    read = reading.Reader(params)
    text = params.get("text", "")
    if len(text) > TEXT_CHARACTERS:
        read.faults.append(f"text has {len(text):,} characters, {TEXT_CHARACTERS:,} are accepted")
    scale = reading.one_of({"feature": False, "row": True})
    norm = reading.one_of({"with": True, "without": False})
    colour = reading.one_of({"activation": False, "loss": True})
    return read.done(
        FeatureView(
            feature=read.value("f", None, reading.whole(0), "a feature number, 0 or more"),
            kind=read.choice("kind", "top", KINDS),
            context=read.choice("ctx", "16", CONTEXTS),
            centre=read.value("centre", False, reading.YES_NO, "yes or no"),
            breaks=read.value("breaks", False, reading.YES_NO, "yes or no"),
            own_scale=read.value("scale", False, scale, "feature or row"),
            example=read.value("ex", None, reading.whole(1), "an example's number, 1 or more"),
            scaled=read.value("norm", True, norm, "with or without"),
            panel=read.choice("panel", "causal", PANELS),
            losses=read.value("colour", False, colour, "activation or loss"),
            other=params.get("other", ""),
            text=text,
        )
    )


def write_view(view: FeatureView) -> dict[str, str]:
    """The address of a FeatureView, defaults left out."""
    out = {} if view.feature is None else {"f": str(view.feature)}
    plain = FeatureView()
    if view.kind != plain.kind:
        out["kind"] = view.kind
    if view.context != plain.context:
        out["ctx"] = view.context
    for key, value in (("centre", view.centre), ("breaks", view.breaks)):
        if value:
            out[key] = "yes"
    given = {
        "scale": "row" if view.own_scale else "",
        "ex": "" if view.example is None else str(view.example),
        "norm": "" if view.scaled else "without",
        "panel": "" if view.panel == plain.panel else view.panel,
        "colour": "loss" if view.losses else "",
        "other": view.other,
        "text": view.text,
    }
    return out | {key: value for key, value in given.items() if value}

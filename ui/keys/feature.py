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


@dataclass(frozen=True)
class FeatureView:
    """How the Feature page shows its examples."""

    feature: int | None = None  # None: no feature named in the address
    kind: str = "top"  # one of KINDS
    context: str = "16"  # a key of CONTEXTS
    centre: bool = False  # one line an example, the peak token in the middle
    breaks: bool = False  # line breaks as breaks


VIEW_KEYS = ("f", "kind", "ctx", "centre", "breaks")


def read_view(params: Mapping[str, str]) -> FeatureView:
    """The Feature page's address; WorkbenchError listing every value that does not fit."""
    read = reading.Reader(params)
    return read.done(
        FeatureView(
            feature=read.value("f", None, reading.whole(0), "a feature number, 0 or more"),
            kind=read.choice("kind", "top", KINDS),
            context=read.choice("ctx", "16", CONTEXTS),
            centre=read.value("centre", False, reading.YES_NO, "yes or no"),
            breaks=read.value("breaks", False, reading.YES_NO, "yes or no"),
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
    return out

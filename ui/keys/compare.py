"""The address of the Compare page: two features, or two SAEs, and what of them is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ui.keys import reading

CONTEXTS = {"5": 5, "16": 16, "64": 64, "full": None}  # tokens around the peak; None: all
KINDS = ("decoder", "correlation")


@dataclass(frozen=True)
class Side:
    """One of the two: an SAE, and a feature of it once one is chosen. "": the chosen SAE."""

    sae: str = ""
    feature: int | None = None


@dataclass(frozen=True)
class CompareView:
    """What the Compare page shows."""

    mode: str = "feature"  # feature | sae
    a: Side = Side()
    b: Side = Side()
    context: str = "16"  # of examples; a key of CONTEXTS
    kind: str = "decoder"  # what features of two SAEs are matched by; one of KINDS
    below: float = 0.5  # a best match below it is none
    page: int = 1  # of the matches


COMPARE_KEYS = ("mode", "a", "b", "ctx", "kind", "below", "page")


def read_compare(params: Mapping[str, str]) -> CompareView:
    """The Compare page's address; WorkbenchError listing every value that does not fit."""
    read = reading.Reader(params)
    what = "an SAE's name, or NAME:FEATURE with a feature number, 0 or more"
    plain = CompareView()
    return read.done(
        CompareView(
            mode=read.choice("mode", plain.mode, ("feature", "sae")),
            a=read.value("a", plain.a, _side, what),
            b=read.value("b", plain.b, _side, what),
            context=read.choice("ctx", plain.context, CONTEXTS),
            kind=read.choice("kind", plain.kind, KINDS),
            below=read.value("below", plain.below, reading.number(-1, 1), "a number from -1 to 1"),
            page=read.value("page", plain.page, reading.whole(1), "a page number, 1 or more"),
        )
    )


def _side(text: str) -> Side:
    sae, colon, number = text.partition(":")
    return Side(sae, reading.whole(0)(number) if colon else None)


def write_compare(view: CompareView) -> dict[str, str]:
    """The address of a CompareView, defaults left out."""
    plain, out = CompareView(), {}
    if view.mode != plain.mode:
        out["mode"] = view.mode
    for key, side in (("a", view.a), ("b", view.b)):
        if side.feature is not None:
            out[key] = f"{side.sae}:{side.feature}"
        elif side.sae:
            out[key] = side.sae
    if view.context != plain.context:
        out["ctx"] = view.context
    if view.kind != plain.kind:
        out["kind"] = view.kind
    if view.below != plain.below:
        out["below"] = repr(view.below)
    if view.page != plain.page:
        out["page"] = str(view.page)
    return out

"""The address of the Prompt page: the text, and what of it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ui.keys import reading

PROMPT_CHARACTERS = 4000


@dataclass(frozen=True)
class PromptView:
    """What the Prompt page shows."""

    text: str = ""
    token: int | None = None  # position of the chosen token
    feature: int | None = None  # colour by this feature; None: by the strongest
    hide_dense: bool = False


PROMPT_KEYS = ("text", "tok", "f", "dense")


def read_prompt(params: Mapping[str, str]) -> PromptView:
    """The Prompt page's address; WorkbenchError listing every value that does not fit."""
    read = reading.Reader(params)
    text = params.get("text", "")
    if len(text) > PROMPT_CHARACTERS:
        read.faults.append(f"text has {len(text):,} characters, {PROMPT_CHARACTERS:,} are accepted")
    dense = reading.one_of({"show": False, "hide": True})
    return read.done(
        PromptView(
            text=text,
            token=read.value("tok", None, reading.whole(0), "a token position, 0 or more"),
            feature=read.value("f", None, reading.whole(0), "a feature number, 0 or more"),
            hide_dense=read.value("dense", False, dense, "show or hide"),
        )
    )


def write_prompt(view: PromptView) -> dict[str, str]:
    """The address of a PromptView, defaults left out."""
    out = {"text": view.text} if view.text else {}
    if view.token is not None:
        out["tok"] = str(view.token)
    if view.feature is not None:
        out["f"] = str(view.feature)
    if view.hide_dense:
        out["dense"] = "hide"
    return out

"""The address of the Prompt page: the text, the SAEs it is read by, and what of it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ui.keys import reading

PROMPT_CHARACTERS = 4000
MOST_SAES = 4  # side by side
RANKS = ("share", "activation", "percentile", "effect")
DENSE = {"show": None, "10": 0.10, "1": 0.01}  # share of the corpus's tokens; None: hide none


@dataclass(frozen=True)
class PromptView:
    """What the Prompt page shows."""

    text: str = ""
    beside: tuple[str, ...] = ()  # other SAEs of the same language model
    token: int | None = None  # position of the chosen token
    feature: int | None = None  # colour by this feature; None: by the strongest
    of: str = ""  # SAE of that feature; "": the chosen one
    rank: str = "share"  # one of RANKS
    dense: str = "show"  # a key of DENSE


PROMPT_KEYS = ("text", "with", "tok", "f", "rank", "dense")


def read_prompt(params: Mapping[str, str]) -> PromptView:
    """The Prompt page's address; WorkbenchError listing every value that does not fit."""
    read = reading.Reader(params)
    text = params.get("text", "")
    if len(text) > PROMPT_CHARACTERS:
        read.faults.append(f"text has {len(text):,} characters, {PROMPT_CHARACTERS:,} are accepted")
    beside = tuple(name for name in params.get("with", "").split(",") if name)
    if len(beside) >= MOST_SAES:
        read.faults.append(f"with names {len(beside)} SAEs, {MOST_SAES - 1} are accepted")
    named = read.value("f", ("", None), _feature, "a feature number, or SAE:NUMBER")
    return read.done(
        PromptView(
            text=text,
            beside=tuple(dict.fromkeys(beside)),
            token=read.value("tok", None, reading.whole(0), "a token position, 0 or more"),
            of=named[0],
            feature=named[1],
            rank=read.choice("rank", "share", RANKS),
            dense=read.choice("dense", "show", DENSE),
        )
    )


def _feature(text: str) -> tuple[str, int | None]:
    sae, _, number = text.rpartition(":")
    return sae, reading.whole(0)(number)


def write_prompt(view: PromptView) -> dict[str, str]:
    """The address of a PromptView, defaults left out."""
    out = {"text": view.text} if view.text else {}
    if view.beside:
        out["with"] = ",".join(view.beside)
    if view.token is not None:
        out["tok"] = str(view.token)
    if view.feature is not None:
        out["f"] = f"{view.of}:{view.feature}" if view.of else str(view.feature)
    plain = PromptView()
    if view.rank != plain.rank:
        out["rank"] = view.rank
    if view.dense != plain.dense:
        out["dense"] = view.dense
    return out

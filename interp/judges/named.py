"""The client a name stands for.

In:  JUDGE as typed: gemini:MODEL, gemini-legacy:MODEL, openai:MODEL@BASE_URL, hf:PATH or
     scripted:FILE. Out: a client; or one sentence with what is missing and the cure. Keys come from
     the environment or from the caller, and are never shown. No SDK is loaded before it is chosen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from data.errors import WorkbenchError
from interp.judges.answers import checked_address
from interp.judges.client import CallFailed, Client

GEMINI_KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
OPENAI_KEYS = ("OPENAI_API_KEY",)
OPENAI = "https://api.openai.com/v1"  # the one address that certainly wants a key
SHOWN = 20  # models that a message lists


@dataclass(frozen=True)
class Offer:
    """A kind of client. missing: "" if it can be used now, else what to do."""

    kind: str
    pattern: str  # what to type
    words: str
    missing: str


def client_named(
    name: str, key: str | None = None, timeout: float = 120.0, base_url: str | None = None
) -> Client:
    """key: None takes the environment's. timeout: seconds for a whole call; a local model has none.
    base_url: another server for gemini. WorkbenchError, with the models where only the model's name
    is missing."""
    kind, _, rest = name.partition(":")
    if kind not in KINDS:
        choices = ", ".join(offer.pattern for offer in available())
        raise WorkbenchError(f"no language-model judge {name!r}: there are {choices}")
    if not rest or rest.startswith("@"):
        raise WorkbenchError(_without_model(kind, rest, key, timeout, base_url))
    return KINDS[kind](rest, key, timeout, base_url)


def models_of(
    kind: str, key: str | None = None, timeout: float = 30.0, base_url: str | None = None
) -> list[str] | None:
    """Models of gemini, gemini-legacy or openai; None where the service has no list. base_url: of
    the server to ask. CallFailed; WorkbenchError."""
    if kind not in ("gemini", "gemini-legacy", "openai"):
        return None
    return KINDS[kind]("", key, timeout, base_url).models()


def available() -> list[Offer]:
    """Every kind of client and whether it can be used; keys are looked for, never shown."""
    gemini = "" if _key(GEMINI_KEYS) else _no_key("gemini", GEMINI_KEYS)
    legacy = gemini or _not_installed("google.generativeai", "google-generativeai")
    return [
        Offer(
            "gemini",
            "gemini:MODEL",
            "Gemini, with batches",
            gemini or _not_installed("google.genai", "google-genai"),
        ),
        Offer(
            "gemini-legacy",
            "gemini-legacy:MODEL",
            "Gemini through the older SDK, whose support has ended",
            legacy,
        ),
        Offer(
            "openai",
            "openai:MODEL@BASE_URL",
            "any OpenAI-compatible server: vLLM, Ollama, llama.cpp, OpenRouter; "
            f"{OPENAI_KEYS[0]} is sent if it is set",
            _not_installed("openai", "openai"),
        ),
        Offer("hf", "hf:PATH", "a model on this machine, without network or key", ""),
        Offer("scripted", "scripted:FILE", "recorded replies", ""),
    ]


# ---------------------------------------------------------------- kinds


def _gemini(model: str, key: str | None, timeout: float, base_url: str | None) -> Client:
    from interp.judges.gemini import GeminiClient

    key = _wanted("gemini", key, GEMINI_KEYS)
    base_url = base_url or os.environ.get("GOOGLE_GEMINI_BASE_URL") or None
    return GeminiClient(model, key, base_url, timeout=timeout)


def _gemini_legacy(model: str, key: str | None, timeout: float, base_url: str | None) -> Client:
    from interp.judges.gemini_legacy import GeminiLegacyClient

    key = _wanted("gemini-legacy", key, GEMINI_KEYS)
    base_url = base_url or os.environ.get("GOOGLE_GEMINI_BASE_URL") or None
    return GeminiLegacyClient(model, key, base_url, timeout)


def _openai(rest: str, key: str | None, timeout: float, base_url: str | None) -> Client:
    from interp.judges.openai_compatible import OpenAICompatibleClient

    model, written = split_address(rest)
    address = written or base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
    key = key or _key(OPENAI_KEYS)
    if not key and checked_address(address) == OPENAI:
        raise WorkbenchError(_no_key("openai", OPENAI_KEYS) + ", or name a server: @BASE_URL")
    return OpenAICompatibleClient(model, address, key, timeout)


def _hf(path: str, key: str | None, timeout: float, base_url: str | None) -> Client:
    from interp.judges.local_hf import LocalClient

    return LocalClient(path)


def _scripted(path: str, key: str | None, timeout: float, base_url: str | None) -> Client:
    from interp.judges.scripted import ScriptedClient

    return ScriptedClient(path)


KINDS: dict[str, Callable[[str, str | None, float, str | None], Client]] = {
    "gemini": _gemini,
    "gemini-legacy": _gemini_legacy,
    "openai": _openai,
    "hf": _hf,
    "scripted": _scripted,
}


def split_address(rest: str) -> tuple[str, str | None]:
    """`MODEL@http://HOST/v1` -> (MODEL, address). A model's name may itself hold an @."""
    found = re.fullmatch(r"(.*?)@(https?://.*)", rest, re.DOTALL)
    return (found[1], found[2]) if found else (rest, None)


# ---------------------------------------------------------------- what is missing


def _key(variables: tuple[str, ...]) -> str | None:
    """The first that is set."""
    values = (os.environ.get(variable, "").strip() for variable in variables)
    return next((value for value in values if value), None)


def _wanted(kind: str, key: str | None, variables: tuple[str, ...]) -> str:
    key = key or _key(variables)
    if not key:
        raise WorkbenchError(
            f"{_no_key(kind, variables)}; without a key there are lexical, hf:PATH and "
            "openai:MODEL@BASE_URL"
        )
    return key


def _no_key(kind: str, variables: tuple[str, ...]) -> str:
    return f"{kind} needs a key: set {' or '.join(variables)} in the environment"


def _not_installed(module: str, package: str) -> str:
    try:
        there = find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        there = False
    return "" if there else f"{package} is not installed: pip install {package}"


def _without_model(
    kind: str, rest: str, key: str | None, timeout: float, base_url: str | None
) -> str:
    """One sentence that says what to add, with the service's models if it lists them."""
    if kind in ("hf", "scripted"):
        wanted = "a model folder or hub id" if kind == "hf" else "a file of recorded replies"
        return f"{kind} needs {wanted}: {kind}:{'PATH' if kind == 'hf' else 'FILE'}"
    address = split_address(rest)[1]
    at = f"@{address}" if address else ""
    wanted = f"{kind} needs a model: {kind}:MODEL{at}"
    try:
        models = models_of(kind, key, min(timeout, 30.0), address or base_url)
    except CallFailed as failed:
        return f"{wanted} (its models cannot be listed: {failed.reason})"
    if not models:
        return wanted
    more = f" and {len(models) - SHOWN} more" if len(models) > SHOWN else ""
    return f"{wanted}, with one of {', '.join(models[:SHOWN])}{more}"

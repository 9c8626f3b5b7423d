"""Reads an address, that is a page's query parameters, value by value.

In:  query parameters, all strings. Out: values, or one WorkbenchError that lists every fault.

An address is input like any other: a value it cannot hold is refused with what was seen and what
is accepted, all faults at once, and never replaced by a default in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from data.errors import WorkbenchError

T = TypeVar("T")


class Reader:
    """Reads values one by one and keeps the faults for one message."""

    def __init__(self, params: Mapping[str, str]):
        self.params = params
        self.faults: list[str] = []

    def value(self, key: str, default: T, parse: Callable[[str], T], accepted: str) -> T:
        text = self.params.get(key)
        if text is None:
            return default
        try:
            return parse(text)
        except (ValueError, KeyError):
            self.faults.append(f"{key}={text!r} is not {accepted}")
            return default

    def choice(self, key: str, default: str, names: Iterable[str]) -> str:
        """One of the names."""
        known = {name: name for name in names}
        return self.value(key, default, one_of(known), "one of " + ", ".join(known))

    def done(self, result: T) -> T:
        if self.faults:
            raise WorkbenchError("The address does not fit this page: " + "; ".join(self.faults))
        return result


def number(low: float, high: float = float("inf")) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high or value == float("inf"):
            raise ValueError(text)
        return value

    return parse


def whole(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < low:
            raise ValueError(text)
        return value

    return parse


def one_of(values: Mapping[str, T]) -> Callable[[str], T]:
    return lambda text: values[text]


YES_NO = {"yes": True, "no": False}.__getitem__

"""Windows of any width, cut from an example when it is read; a document's text is stored once.

In:  an Example, which covers the whole context the model saw. Out: an Example of the tokens around
its peak. Judges and pages cut by the same rule, so what an LLM reads is what a person sees.
"""

from __future__ import annotations

from dataclasses import replace

from data.records import Example


def bounds(length: int, peak: int, width: int | None) -> tuple[int, int]:
    """(start, stop) of the `width` tokens around token `peak` of `length`; None: all of them.

    The peak stands at width // 2, unless the window has to shift to stay inside the context: a
    context that has `width` tokens gives as many.
    """
    if width is None or width >= length:
        return 0, length
    assert width >= 1, width
    start = min(max(peak - width // 2, 0), length - width)
    return start, start + width


def window(example: Example, width: int | None) -> Example:
    """The example cut to the `width` tokens around its peak; its peak stays the same token."""
    start, stop = bounds(len(example.ids), example.peak, width)
    return replace(
        example,
        start=example.start + start,
        peak=example.peak - start,
        ids=example.ids[start:stop],
        values=example.values[start:stop],
    )

"""Windows against a slow, literal one, and by hand."""

from __future__ import annotations

from data.records import Example
from data.windows import bounds, window


def example(length: int, peak: int) -> Example:
    return Example(
        7, "top", "", 0, 3, "a.txt", "score", 40, peak, 1.5, 1.5, 1.0, 1,
        tuple(range(length)), tuple(float(i == peak) for i in range(length)),
    )  # fmt: skip


def test_by_hand():
    assert bounds(10, 5, 4) == (3, 7)  # the peak is the third of four
    assert bounds(10, 5, 5) == (3, 8)
    assert bounds(10, 0, 4) == (0, 4) and bounds(10, 9, 4) == (6, 10)
    assert bounds(3, 2, 64) == (0, 3) and bounds(10, 5, None) == (0, 10)
    assert bounds(10, 5, 1) == (5, 6) and bounds(0, 0, 5) == (0, 0)


def test_a_window_is_the_same_text_with_the_same_peak():
    for length in (1, 2, 5, 17):
        for peak in range(length):
            for width in (1, 2, 5, 16, 64, None):
                whole = example(length, peak)
                cut = window(whole, width)
                assert len(cut.ids) == min(length, width or length)
                assert cut.ids == tuple(range(cut.start - 40, cut.start - 40 + len(cut.ids)))
                assert cut.ids[cut.peak] == peak and cut.values[cut.peak] == 1.0
                assert cut.start + cut.peak == whole.start + whole.peak
                # As near to the middle as the context lets it be.
                wanted = min(length, width or length) // 2
                possible = [peak - at for at in range(length - len(cut.ids) + 1) if peak >= at]
                possible = [at for at in possible if at < len(cut.ids)]
                assert abs(cut.peak - wanted) == min(abs(at - wanted) for at in possible)

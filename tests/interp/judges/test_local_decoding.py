"""Decoding against a slow reference, sampling against shares by hand, rows that end."""

import pytest
import torch

from interp.judges.client import CallFailed
from interp.judges.local_decoding import Row, _Chooser, decode
from tests import tiny
from tests.tiny import one_thread  # noqa: F401


def test_greedy_decoding_against_the_model_run_anew_for_every_token():
    """Rows of different lengths together, padded on the left, and each alone."""
    model = tiny.language_model("llama").model
    rows = [Row([0, 5, 9], 6, 0.0, 1.0, b""), Row([0, 7, 8, 9, 10, 11, 12], 3, 0.0, 1.0, b"")]
    decode(model, rows)
    for row in rows:
        ids = list(row.prompt)
        for _ in range(row.limit):
            with torch.inference_mode():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        expected = ids[len(row.prompt) :]
        if 1 in expected:  # the token that ends a reply
            assert row.finish == "stop" and row.tokens == expected[: expected.index(1)]
        else:
            assert row.finish == "max_tokens" and row.tokens == expected


def test_sampling_follows_the_distribution_and_top_p():
    """Shares 1/2, 1/4, 1/8, 1/8 at temperature 1; top_p 0.6 keeps two of them, as 2/3 and 1/3; at
    temperature 0.5 the shares are squared."""
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()

    def shares(temperature, top_p, n=4000):
        rows = [Row([0], n, temperature, top_p, bytes([i])) for i in range(4)]
        chooser = _Chooser(rows, [])
        drawn = [chooser._drawn(logits.repeat(4, 1)) for _ in range(n // 4)]
        return torch.bincount(torch.cat(drawn), minlength=4) / n

    for settings, expected in (
        ((1.0, 1.0), [0.5, 0.25, 0.125, 0.125]),
        ((1.0, 0.6), [2 / 3, 1 / 3, 0, 0]),
        ((1.0, 0.0), [1, 0, 0, 0]),
        ((0.5, 1.0), [16 / 22, 4 / 22, 1 / 22, 1 / 22]),
        ((0.0, 1.0), [1, 0, 0, 0]),
    ):
        assert shares(*settings).tolist() == pytest.approx(expected, abs=0.03)


def test_a_row_that_has_ended_leaves_the_others_alone():
    rows = [Row([0], 9, 0.0, 1.0, b""), Row([0], 2, 0.0, 1.0, b""), Row([0], 9, 0.0, 1.0, b"")]
    rows[2].stops_at = lambda tokens: len(tokens) == 3
    chooser = _Chooser(rows, [7])
    for step in range(4):
        scores = torch.zeros(3, 8)
        scores[0, 7 if step == 1 else 3] = scores[1, 3] = scores[2, 3] = 1.0
        allowed = chooser(None, scores).argmax(-1).tolist()
    assert [(row.tokens, row.finish) for row in rows] == [
        ([3], "stop"), ([3, 3], "max_tokens"), ([3, 3, 3], "stop"),
    ]  # fmt: skip
    assert allowed == [7, 7, 7]
    with pytest.raises(CallFailed, match="no numbers in float32"):
        chooser(None, torch.full((3, 8), torch.nan))

"""Token strips against strings worked out by hand."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path

import numpy as np
import pytest

from data.records import Example
from ui import strips
from ui.strips import Line, Piece, around, level, pieces, segments, strip

STYLE = Path(strips.__file__).with_name("styles") / "tokens.css"
# (text, page) of Streamlit's two themes, and of the exported page's.
THEMES = [
    ((47, 45, 43), (255, 255, 255)), ((237, 235, 232), (23, 22, 20)),
    ((28, 29, 33), (253, 253, 252)), ((232, 232, 234), (22, 23, 26)),
]  # fmt: skip
# What eyes without one kind of cone see: Machado et al. 2009, severity 1, linear RGB.
EYES = {
    "typical": np.eye(3),
    "protan": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                        [-0.003882, -0.048116, 1.051998]]),
    "deutan": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                        [-0.011820, 0.042940, 0.968881]]),
    "tritan": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                        [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip


def plain(*tokens: bytes) -> list[tuple[bytes, bool]]:
    return [(token, False) for token in tokens]


def test_tokens_that_share_a_character_become_one_piece_with_the_larger_activation():
    party = "🎉".encode()
    row = pieces(plain(b"a", party[:2], party[2:], b" b"), [0.0, 1.5, 4.0, 0.0])
    assert row == [
        Piece("a", 0.0, False, 0, 0),
        Piece("🎉", 4.0, False, 1, 2),
        Piece(" b", 0.0, False, 3, 3),
    ]


def test_a_character_may_span_four_tokens_and_share_its_last_with_text():
    party = "🎉".encode()
    row = pieces(plain(*(bytes([b]) for b in party[:3]), party[3:] + b" ok"), [0, 2.0, 0, 1.0])
    assert row == [Piece("🎉 ok", 2.0, False, 0, 3)]
    accent = "é".encode()
    row = pieces(plain(b" caf" + accent[:1], accent[1:] + b" is"), [0.5, 0.0])
    assert row == [Piece(" café is", 0.5, False, 0, 1)]


def test_bytes_that_are_no_character_stay_apart_and_are_shown_as_such():
    row = pieces(plain(b"\xf0\x9f", b"x", b"\x80", b"\xff"), [1.0, 0, 0, 0])
    assert [(p.first, p.last) for p in row] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert strip(row, 1.0) == (
        '<mark class="a10" tabindex="0" data-t="\\xf0\\x9f · 1 · 100 % of maximum">'
        "<i>\\xf0</i><i>\\x9f</i></mark>x<i>\\x80</i><i>\\xff</i>"
    )


def test_a_special_token_ends_a_broken_character():
    tokens = [(b"\xf0\x9f", False), (b"<eos>", True), (b"\x8e", False)]
    assert [p.text for p in pieces(tokens, [0, 0, 0])] == ["\udcf0\udc9f", "<eos>", "\udc8e"]


def test_every_token_is_in_exactly_one_piece():
    text = "def café(): 🎉\n\tnaïve 漢字 \x00"
    raw = text.encode()
    for width in (1, 2, 3, 5):
        tokens = plain(*(raw[at : at + width] for at in range(0, len(raw), width)))
        row = pieces(tokens, [0.0] * len(tokens))
        assert "".join(piece.text for piece in row) == text
        covered = [at for piece in row for at in range(piece.first, piece.last + 1)]
        assert covered == list(range(len(tokens)))


def test_only_active_tokens_get_an_element():
    row = pieces(plain(b"the", b" cat", b" sat"), [0, 2.0, 0])
    assert strip(row, 4.0) == (
        'the<mark class="a8" tabindex="0" data-t="␣cat · 2 · 50 % of maximum"> cat</mark> sat'
    )


def test_markup_in_tokens_is_escaped_everywhere():
    nasty = b'<script>alert("1")</script>'
    row = pieces([(nasty, False), (nasty, True)], [1.0, 1.0])
    line = Line(row, 0, 1.0, '<b onload="x">&', 0, "score", False, False)
    for drawn in (strip(row, 1.0), strips.examples([line], 1.0), strips.kwic(row, 1.0, 1)):
        assert "<script" not in drawn and "<b onload" not in drawn
        assert "&lt;script&gt;" in drawn
        assert not re.search(r'(title|data-t)="[^"]*[<>]', drawn)


def test_white_space_is_visible_where_it_matters():
    row = pieces(plain(b"a", b" ", b"\n", b"\t"), [0, 1.0, 1.0, 0])
    drawn = strip(row, 1.0)
    assert re.findall(r"<mark[^>]*>(.*?)</mark>", drawn) == ["<i>·</i>", "<i>↵</i>"]
    assert drawn.endswith("<i>→</i>")
    assert "<i>↵</i>\n" in strip(row, 1.0, breaks=True)
    silent = pieces(plain(b"a", b" ", b"b"), [0, 0, 0])
    assert strip(silent, 1.0) == "a b"


def test_special_tokens_are_badges_active_or_not():
    row = pieces([(b"<bos>", True), (b"<eos>", True)], [0.0, 1.0])
    assert strip(row, 1.0).startswith('<span class="sp">&lt;bos&gt;</span><mark class="a10 sp"')


@pytest.mark.parametrize(
    ("value", "maximum", "expected"),
    [
        (0.0, 1.0, 0),
        (-1.0, 1.0, 0),
        (1.0, None, 0),
        (1.0, 0.0, 0),
        (1.0, 1.0, 10),
        (5.0, 1.0, 10),
        (1 / 9, 1.0, 4),  # log10(2) = 0.301
        (0.001, 1.0, 1),
        ((10**0.5 - 1) / 9, 1.0, 5),  # log10(1 + 9 r) = 0.5 exactly
    ],
)
def test_level_is_the_log_scale_in_tenths(value, maximum, expected):
    assert level(value, maximum) == expected


def test_colour_does_not_depend_on_the_rows_on_show():
    weak = pieces(plain(b"a"), [0.1])
    assert 'class="a3"' in strip(weak, 1.0)
    assert 'class="a10"' in strip(weak, 0.1)


def test_the_peak_is_marked_also_inside_a_merged_piece():
    party = "🎉".encode()
    row = pieces(plain(party[:2], party[2:]), [1.0, 3.0])
    assert 'class="a10 pk"' in strip(row, 3.0, peak=1)


def test_around_keeps_whole_characters():
    party = "🎉".encode()
    row = pieces(plain(b"a", party[:2], party[2:], b"b", b"c", b"d"), [0] * 6)
    assert [p.text for p in around(row, 3, 3)] == ["🎉", "b", "c"]
    assert around(row, 3, None) == row
    assert [p.text for p in around(row, 0, 2)] == ["a", "🎉"]
    # Five tokens wherever the context has five: a, the two halves, b, c.
    assert [p.text for p in around(row, 0, 5)] == ["a", "🎉", "b", "c"]
    assert around([], 0, 5) == []


def test_kwic_puts_the_peak_in_the_middle_cell():
    row = pieces(plain(b"x", b"y", b"z"), [0, 1.0, 0])
    cells = re.findall(r'<div class="(k\w)"><span>(.*?)</span></div>', strips.kwic(row, 1.0, 1))
    assert [name for name, _ in cells] == ["kl", "km", "kr"]
    assert cells[0][1] == "x" and ">y</mark>" in cells[1][1] and cells[2][1] == "z"


def test_examples_say_what_was_cut_and_where_the_text_is_from():
    row = pieces(plain(b"x"), [2.0])
    line = Line(row, 5, 2.0, "python:lib/json/decoder.py", 130, "score", True, False)
    drawn = strips.examples([line], 4.0)
    assert (
        "decoder.py" in drawn and ":130" in drawn and 'title="python:lib/json/decoder.py' in drawn
    )
    assert "use-score" in drawn and drawn.count("<i>…</i>") == 1
    assert "<i>…</i>" not in strips.examples([line], 4.0, centre=True)
    long = Line(row, 5, 2.0, "data/tinystories_v2_gpt4.jsonl:1234", 7, "score", False, False)
    assert ">tinysto…jsonl:1234<" in strips.examples([long], 4.0)


def test_legend_names_the_maximum_or_its_absence():
    assert "4.25" in strips.legend(4.25) and strips.legend(4.25).count('class="a') == 10
    assert "no activation" in strips.legend(None)


def test_a_payload_of_many_silent_tokens_stays_small():
    tokens = plain(*[b" word"] * 10_000)
    values = [1.0 if at % 100 == 0 else 0.0 for at in range(10_000)]
    assert len(strip(pieces(tokens, values), 1.0)) < 50_000 + 100 * 100


def test_segments_are_plain_text_with_one_title_each():
    tokens = [(b"<bos>", True), (b"a<b>", False), (b" ", False)]
    row = pieces(tokens, [0.0, 0.5, 1.0])
    found = segments(row, 1.0, {1: "note"}, masked=frozenset({0}), chosen=2)
    assert [f["text"] for f in found] == ["<bos>", "a<b>", "·"]
    assert [f["cls"] for f in found] == ["sp mk", "a8", "a10 on"]
    assert [f["title"] for f in found] == ["", "note", ""]
    assert [f["token"] for f in found] == [0, 1, 2]


def test_token_text_shows_what_a_table_would_hide():
    assert strips.token_text(b"  def") == "␣␣def"
    assert strips.token_text(b"a  ") == "a␣␣"
    assert strips.token_text(b"\n\t") == "↵→"
    assert strips.token_text(b"\\n") == "\\n", "a backslash and an n are no line end"
    assert strips.token_text(b"") == "∅"
    assert strips.token_text(b"\xf0\x9f") == "\\xf0\\x9f"
    assert strips.token_text("é".encode()) == "é"


# ---------------------------------------------------------------- text that is hard to show

FAMILY = "👩\u200d👧"  # two emoji and the joiner between them


def test_an_emoji_with_joiners_keeps_every_code_point_whole():
    data = FAMILY.encode()
    assert len(data) == 11
    for width in (1, 2, 3, 4):
        cut = plain(*(data[at : at + width] for at in range(0, len(data), width)))
        row = pieces(cut, [float(at + 1) for at in range(len(cut))])
        assert "".join(piece.text for piece in row) == FAMILY
        assert strip(row, None) == FAMILY, "silent: as written"
    row = pieces(plain(data[:4], data[4:7], data[7:]), [0.0, 1.0, 0.0])
    assert strip(row, 1.0).count("<i>ZWJ</i>") == 1, "a joiner that fires alone must be seen"
    row = pieces(plain(data), [1.0])
    assert f">{FAMILY}</mark>" in strip(row, 1.0), "inside a token it joins"


def test_right_to_left_text_keeps_its_order_and_its_marks():
    words = plain("שלום".encode(), " עולם".encode(), "\u200f".encode(), "\u202e".encode())
    row = pieces(words, [0.0, 1.0, 0.0, 0.0])
    drawn = strip(row, 1.0)
    assert drawn.startswith("שלום<mark") and drawn.endswith(
        "> עולם</mark><i>RLM</i><i>U+202E</i>"
    ), "an override must not turn the rest of the page around"
    line = Line(row, 1, 1.0, "he.txt", 1, "score", False, False)
    assert 'class="strip" dir="auto"' in strips.examples([line], 1.0)


def test_null_and_lone_continuation_bytes_are_shown_as_bytes():
    row = pieces(plain(b"a\x00b", b"\x8e", b"\x89\x80"), [0.0, 2.0, 0.0])
    assert [piece.text for piece in row] == ["a\x00b", "\udc8e", "\udc89\udc80"]
    drawn = strip(row, 2.0)
    assert drawn.startswith("a<i>\\x00</i>b<mark") and "\x00" not in drawn
    assert drawn.endswith("<i>\\x8e</i></mark><i>\\x89</i><i>\\x80</i>")


def test_bytes_that_would_never_make_a_character_are_not_joined():
    for tokens in (
        [b"\xff", b"\x80"],
        [b"\xc0", b"\x80"],
        [b"\xf0\x9f", b"\x8e"],
        [b"\xe2", b"\x82a"],
    ):
        row = pieces(plain(*tokens), [1.0, 2.0])
        assert [(p.first, p.last, p.value) for p in row] == [(0, 0, 1.0), (1, 1, 2.0)], tokens
    row = pieces(plain(b"\xff caf\xc3", b"\xa9 \xe2", b"x"), [0, 3.0, 0])
    assert [p.text for p in row] == ["\udcff café \udce2", "x"], "what can be joined still is"


def test_a_line_end_with_a_tab_and_what_a_document_merely_says():
    row = pieces(
        [(b"\n\t", False), (b"\\n", False), (b"<eos>", False), (b"<eos>", True)], [1.0, 0, 0, 0]
    )
    drawn = strip(row, 1.0)
    assert "<i>↵</i><i>→</i></mark>" in drawn
    assert drawn.endswith('\\n&lt;eos&gt;<span class="sp">&lt;eos&gt;</span>')
    assert [f["text"] for f in segments(row, 1.0, {})] == ["↵\n→", "\\n", "<eos>", "<eos>"]


def test_kinds_of_space_can_be_told_apart():
    row = pieces(plain(b"    ", "\u00a0".encode(), "\u3000".encode(), b"\n  "), [1.0] * 4)
    inner = re.findall(r"<mark[^>]*>(.*?)</mark>", strip(row, 1.0))
    dot = "<i>·</i>"
    assert inner == [dot * 4, "<i>⍽</i>", "<i>U+3000</i>", "<i>↵</i>" + dot * 2]
    assert strip(pieces(plain("漢\u3000字".encode()), [0.0]), 1.0) == "漢\u3000字"


def test_an_accent_that_fires_alone_stands_on_a_circle():
    row = pieces(plain(b"e", "\u0301".encode()), [0.0, 1.0])
    assert ">◌\u0301</mark>" in strip(row, 1.0)
    assert strip(pieces(plain(b"e", "\u0301".encode()), [0.0, 0.0]), 1.0) == "e\u0301"


def test_tokens_without_bytes_are_in_a_piece_of_their_own():
    row = pieces(plain(b"", b"a", b""), [1.0, 0.0, 0.0])
    assert [(p.text, p.first) for p in row] == [("", 0), ("a", 1), ("", 2)]
    assert strip(row, 1.0).startswith("<mark") and ">∅</mark>a" in strip(row, 1.0)


HARD = ["def café(): 🎉", FAMILY, "é\u0301שלום", "\x00\n\t \r", "\u2028\ufeffa"]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_bytes_pieces_keep_them_and_their_largest_value(seed):
    """Property: random bytes cut at random: nothing is lost, no token is in two pieces, and what is
    drawn holds no control character."""
    rng = random.Random(seed)
    data = rng.choice(HARD).encode() if seed % 2 else b""
    data += bytes(rng.choice([0, 9, 10, 65, 0x80, 0xBF, 0xC3, 0xE2, 0xF0, 0xFF]) for _ in range(20))
    cuts = sorted({0, len(data), *(rng.randrange(len(data)) for _ in range(12))})
    tokens = [(data[a:b], rng.random() < 0.1) for a, b in zip(cuts, cuts[1:], strict=False)]
    values = [rng.choice([0.0, rng.random()]) for _ in tokens]
    row = pieces(tokens, values)
    assert b"".join(strips.raw(piece) for piece in row) == data
    assert [at for p in row for at in range(p.first, p.last + 1)] == list(range(len(tokens)))
    for piece in row:
        assert piece.value == max(values[piece.first : piece.last + 1])
        if piece.first < piece.last:
            assert not any(tokens[at][1] for at in range(piece.first, piece.last + 1))
    drawn = strip(row, 1.0)
    assert not any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in drawn)
    drawn.encode()


def test_lines_cut_examples_and_say_what_was_cut():
    tokens = {i: (bytes([97 + i]), False) for i in range(8)}
    example = Example(
        1, "top", "", 0, 3, "a.txt", "score", 100, 4, 2.5, 2.5, 1.0, 3, tuple(range(8)),
        (0.0,) * 4 + (2.5,) + (0.0,) * 3,
    )  # fmt: skip
    (line,) = strips.lines([example], tokens, 5)
    assert "".join(p.text for p in line.row) == "cdefg" and (line.peak, line.position) == (4, 104)
    assert (line.clipped_left, line.clipped_right, line.copies) == (True, True, 3)
    assert "stands for 3 tokens" in strips.examples([line], 2.5)
    (whole,) = strips.lines([example], tokens, None)
    assert len(whole.row) == 8 and not whole.clipped_left and not whole.clipped_right
    (wide,) = strips.lines([dataclasses.replace(example, peak=0)], tokens, 5)
    assert "".join(p.text for p in wide.row) == "abcde", "shifted to stay inside the context"


def test_the_window_is_cut_from_the_tokens_as_from_the_pieces():
    """`around_peak` makes pieces of the window only; the result is that of the whole context."""
    rng = random.Random(3)
    texts = ["def ", "é", "🎉", "漢", "\n", " x", "\u200b", ""]
    for _ in range(300):
        raw = "".join(rng.choice(texts) for _ in range(30)).encode()
        raw += bytes([rng.choice([0xFF, 0x80, 0xF0])]) * rng.randint(0, 2)
        cuts = sorted(rng.sample(range(len(raw) + 1), min(len(raw), rng.randint(3, 20))))
        bounds = zip([0, *cuts], [*cuts, len(raw)], strict=True)
        tokens = [(raw[a:b], rng.random() < 0.05) for a, b in bounds]
        values = [rng.choice([0.0, 1.0, 2.0]) for _ in tokens]
        peak = rng.randrange(len(tokens))
        for width in (1, 5, 16, None):
            whole = around(pieces(tokens, values), peak, width)
            assert strips.around_peak(tokens, values, peak, width) == whole


def test_a_token_tells_its_percentile_where_ranks_are_known():
    row = pieces(plain(b"cat"), [2.0])
    assert 'data-t="cat · 2 · percentile 99.3"' in strip(row, 4.0, rank=lambda value: 0.9935)
    assert "the corpus maximum" in strip(row, 2.0, rank=lambda value: 1.0)
    assert 'data-t="cat · 2"' in strip(row, 2.0, rank=lambda value: None)


def test_a_very_long_token_does_not_fill_the_window_with_its_name():
    drawn = strip(pieces(plain(b"x" * 5000), [1.0]), 1.0)
    assert len(re.search(r'data-t="([^"]*)"', drawn)[1]) < 100 and "x" * 5000 in drawn


def test_changes_are_coloured_by_their_sign():
    row = pieces(plain(b"a", b"b", b"c", b"d"), [0.0] * 4)
    drawn = strips.signed(row, {0: 0.5, 1: -1.0, 2: 0.001}, 1.0, "nats", peak=3)
    assert re.findall(r'class="(\w+)" tabindex', drawn) == ["a8", "n10"]
    assert "a · +0.5 nats" in drawn and "b · -1 nats" in drawn
    assert drawn.endswith('c<span class="pk">d</span>'), "tiny or unmeasured stays bare"


def test_a_repeated_document_is_marked_and_a_row_may_have_its_own_scale():
    tokens = {0: (b"a", False)}
    example = Example(1, "top", "", 0, 3, "a.txt", "score", 0, 0, 1.0, 1.0, 1.0, 1, (0,), (1.0,))
    again = strips.lines([example, example], tokens, None)
    assert [line.again for line in again] == [False, True]
    drawn = strips.examples(again, 100.0)
    assert drawn.count(">shown above<") == 1 and 'class="ex again"' in drawn
    assert 'class="a1 pk"' in drawn
    assert 'class="a10 pk"' in strips.examples(again, 100.0, own_scale=True)


def test_a_row_links_to_its_text_and_escapes_the_address():
    line = Line(pieces(plain(b"x"), [1.0]), 0, 1.0, "a", 0, "score", False, False,
                link='prompt?text="><script>')  # fmt: skip
    drawn = strips.examples([line], 1.0)
    assert 'href="prompt?text=&quot;&gt;&lt;script&gt;"' in drawn and "data-go" in drawn


# ------------------------------------------------------------------ colours


def scale(letter: str) -> list[tuple[np.ndarray, float]]:
    """(colour, opacity) of the ten steps in the style sheet."""
    found = []
    for step in range(1, strips.LEVELS + 1):
        rule = re.search(rf"\.{letter}{step} \{{ background: rgba\(([^)]*)\)", STYLE.read_text())
        *rgb, alpha = (float(part) for part in rule[1].split(","))
        found.append((np.array(rgb), alpha))
    return found


def light(rgb, eye=EYES["typical"]) -> float:
    """Relative luminance (WCAG 2.2) of an sRGB colour from 0 to 255, as an eye sees it."""
    c = np.asarray(rgb, float) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(np.clip(eye @ linear, 0, 1) @ [0.2126, 0.7152, 0.0722])


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


@pytest.mark.parametrize("letter", ["a", "n"])
@pytest.mark.parametrize(("ink", "paper"), THEMES)
def test_text_on_every_colour_can_be_read_and_steps_are_told_apart_by_any_eye(letter, ink, paper):
    steps = [alpha * rgb + (1 - alpha) * np.array(paper) for rgb, alpha in scale(letter)]
    for step in steps:
        assert contrast(light(ink), light(step)) >= 4.5
    for name, eye in EYES.items():
        lights = [light(paper, eye)] + [light(step, eye) for step in steps]
        moves = np.diff(lights)
        assert (moves < 0).all() or (moves > 0).all(), f"not in order of lightness: {name}"
        assert contrast(lights[0], lights[-1]) > 1.4, name


@pytest.mark.parametrize(("ink", "paper"), THEMES[:2])
def test_the_text_of_a_repeated_document_is_faint_but_can_be_read(ink, paper):
    share = float(re.search(r"again .*currentColor (\d+)%", STYLE.read_text())[1]) / 100
    faint = share * np.array(ink) + (1 - share) * np.array(paper)
    assert contrast(light(faint), light(paper)) >= 4.5

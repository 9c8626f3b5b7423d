"""Contexts hold every token once, in its place, behind BOS; masks; the exact bytes of tokens."""

import numpy as np
import pytest

from data.errors import ModelError, TextError
from data.records import Document
from data.text import min_hash, split_of, use_of
from data.tokens import (
    ContextBatch,
    ContextMaker,
    ContextRule,
    MaskRule,
    bos_of,
    mask_rule,
    prefix_of,
    token_bytes,
)
from tests import tiny

HARD = {
    "accents": "café naïve Ångström — “quotes”",
    "emoji joined": "\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308",
    "right to left": "\u202eשלום עולם\u202c مرحبا بالعالم",
    "null": "a\x00b\x00\x00c\x7f",
    "ideographs": "私は學生です。한국어",
    "spaces": "  two\tthree\n\n   four \u00a0 nbsp",
    "private": "\ue000\U000f0000 \ufffd \ufeff",
}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


def _made(tokenizer, texts, tokens=10**9, batch=4, **rule):
    """(maker, one ContextBatch of everything it made)."""
    maker = ContextMaker(tokenizer, ContextRule(**{"context": 16, **rule}), tokens, batch)
    made = list(maker(Document(f"d{i}", text) for i, text in enumerate(texts)))
    assert all(len(b.ids) <= batch for b in made)
    columns = (np.concatenate([getattr(b, c) for b in made]) for c in ("ids", "doc", "position"))
    return maker, ContextBatch(*columns)


def _ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


# ---------------------------------------------------------------- contexts


def test_contexts_by_hand(tokenizer):
    """One document of 11 tokens in contexts of 8: seven tokens, four tokens, padding."""
    text = "zqxjkvwyzqx"
    ids = _ids(tokenizer, text)
    assert len(ids) == 11, "a text without merges"
    maker, made = _made(tokenizer, [text], context=8)
    assert made.ids.tolist() == [[0, *ids[:7]], [0, *ids[7:], 2, 2, 2]]
    assert made.doc.tolist() == [[-1, *[0] * 7], [-1, *[0] * 4, -1, -1, -1]]
    assert made.position.tolist() == [[-1, *range(7)], [-1, 7, 8, 9, 10, -1, -1, -1]]
    kept = maker.mask.keep_ids(made)
    assert kept.tolist() == [[False] + [True] * 7, [False] + [True] * 4 + [False] * 3]


@pytest.mark.parametrize("context", [8, 16, 61])
@pytest.mark.parametrize("pack", [False, True])
def test_every_token_of_every_document_exactly_once(tokenizer, context, pack):
    texts = [*tiny.sentences(70), "x", *HARD.values()]  # more than are tokenised at once
    maker, made = _made(tokenizer, texts, context=context, pack=pack)
    assert (made.ids[:, 0] == 0).all() and (made.doc[:, 0] == -1).all(), "BOS first"
    assert ((made.doc == -1) == (made.position == -1)).all()
    seen = {}
    for token, doc, position in zip(
        made.ids.ravel().tolist(), made.doc.ravel().tolist(), made.position.ravel().tolist(),
        strict=True,
    ):  # fmt: skip
        if doc >= 0:
            assert (doc, position) not in seen
            seen[doc, position] = token
    assert len(maker.documents) == len(maker.document_ids) == len(texts)
    expected = {
        (doc, position): token
        for doc, text in enumerate(texts)
        for position, token in enumerate(_ids(tokenizer, text))
    }
    assert seen == expected
    spans = [set(row[row >= 0].tolist()) for row in made.doc]
    assert max(map(len, spans)) > 1 if pack else all(len(s) == 1 for s in spans)


def test_document_rows_say_what_the_text_says(tokenizer):
    texts = tiny.sentences(12)
    maker, _ = _made(tokenizer, texts)
    for number, (row, ids, text) in enumerate(
        zip(maker.documents, maker.document_ids, texts, strict=True)
    ):
        m = min_hash(text)
        assert (row.doc, row.name, row.n_tokens) == (number, f"d{number}", len(ids))
        assert (row.min_hash, row.split, row.use) == (m, split_of(m), use_of(m))
        assert ids.tolist() == _ids(tokenizer, text)


def test_packed_documents_are_separated_by_bos(tokenizer):
    texts = ["zqx", "jkv", "wy"]
    _, made = _made(tokenizer, texts, context=12, pack=True)
    a, b, c = (_ids(tokenizer, text) for text in texts)
    assert made.ids.tolist() == [[0, *a, 0, *b, 0, *c, 2]]
    assert made.doc.tolist() == [[-1, 0, 0, 0, -1, 1, 1, 1, -1, 2, 2, -1]]
    assert made.position.tolist() == [[-1, 0, 1, 2, -1, 0, 1, 2, -1, 0, 1, -1]]


def test_packing_pads_the_last_context_of_each_split_only_and_mixes_none(tokenizer):
    maker, made = _made(tokenizer, tiny.sentences(40), pack=True)
    part = [(d.split, d.use == "calibrate") for d in maker.documents]
    parts = [{part[doc] for doc in row if doc >= 0} for row in made.doc]
    assert all(len(seen) == 1 for seen in parts)
    assert (made.ids == 2).any(axis=1).sum() <= len(set(part))
    assert maker.mask.keep_ids(made)[:-1].mean() > 0.85


def test_the_token_budget_counts_kept_tokens_and_forgets_unused_documents(tokenizer):
    texts = tiny.sentences(200)
    maker, made = _made(tokenizer, texts, tokens=300, batch=4)
    kept = int(maker.mask.keep_ids(made).sum())
    assert 300 <= kept < 300 + 4 * 15, "it ends with the batch that reaches the budget"
    used = int(made.doc.max()) + 1
    assert len(maker.documents) == len(maker.document_ids) == used < 64
    maker, made = _made(tokenizer, texts[:3], tokens=10**9)
    assert len(maker.documents) == 3, "a text smaller than the budget is used up"


def test_a_document_of_which_only_the_separator_came_in_is_forgotten(tokenizer):
    texts = ["zqxjkvwyzqxjkv", "wyz"]
    maker, made = _made(tokenizer, texts, tokens=14, batch=1, pack=True)
    assert made.ids.tolist() == [[0, *_ids(tokenizer, texts[0]), 0]]
    assert [d.name for d in maker.documents] == ["d0"] and len(maker.document_ids) == 1


@pytest.mark.parametrize("pack", [False, True])
def test_no_document_fills_more_contexts_than_it_may(tokenizer, pack):
    texts = tiny.sentences(20)
    maker, made = _made(tokenizer, texts, per_document=2, pack=pack)
    for number, text in enumerate(texts):
        expected = _ids(tokenizer, text)[: 2 * 15]
        mine = made.doc == number
        assert mine.sum() == maker.documents[number].n_tokens == len(expected)
        assert made.ids[mine].tolist() == maker.document_ids[number].tolist() == expected
        assert maker.documents[number].min_hash == min_hash(text), "the split is the whole text's"
        assert pack or mine.any(axis=1).sum() <= 2
    assert max(len(_ids(tokenizer, text)) for text in texts) > 2 * 15
    with pytest.raises(TextError, match="--per-document 0"):
        ContextRule(per_document=0)


def test_contexts_do_not_depend_on_the_batch_size(tokenizer):
    texts = tiny.sentences(30)
    one, many = _made(tokenizer, texts, batch=1)[1], _made(tokenizer, texts, batch=50)[1]
    for column in ("ids", "doc", "position"):
        assert np.array_equal(getattr(one, column), getattr(many, column))


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"context": 7}, "--context 7 is too short"),
        ({"context": -1}, "--context -1 is too short"),
        ({"skip_first": -1}, "--skip-first -1"),
        ({"context": 16, "skip_first": 15}, "leaves nothing of 16"),
    ],
)
def test_impossible_rules_are_refused(rule, says):
    with pytest.raises(TextError, match=says):
        ContextRule(**rule)


def test_a_budget_below_one_token_is_refused(tokenizer):
    with pytest.raises(TextError, match="--tokens 0 is less than one token"):
        ContextMaker(tokenizer, ContextRule(), 0)


# ---------------------------------------------------------------- masks


def test_special_tokens_inside_a_document_are_masked_where_they_stand(tokenizer):
    text = f"zqx{tiny.EOS}jkv{tiny.BOS}w{tiny.PAD}y"
    maker, made = _made(tokenizer, [text], context=16)
    row = made.ids[0].tolist()
    assert row[:11] == [0, *_ids(tokenizer, "zqx"), 1, *_ids(tokenizer, "jkv"), 0, row[9], 2]
    kept = maker.mask.keep_ids(made)[0]
    special = np.isin(made.ids[0], (0, 1, 2))
    assert np.array_equal(kept, ~special & (made.doc[0] >= 0)) and special.sum() > 4


def test_special_tokens_that_have_no_role_are_masked_too():
    """Turn marks of chat models are special though they are neither BOS nor EOS."""
    from tokenizers import AddedToken

    made = tiny.tokenizer()
    made.add_tokens([AddedToken("<turn>", special=True), AddedToken("<word>", special=False)])
    turn, word = made.convert_tokens_to_ids(["<turn>", "<word>"])
    table = token_bytes(made)
    assert table[turn] == (b"<turn>", True) and table[word] == (b"<word>", False)
    mask = mask_rule(made, ContextRule(), None)
    assert turn in mask.special and word not in mask.special


def test_skip_first_masks_positions_after_the_prefix_of_each_context(tokenizer):
    maker, made = _made(tokenizer, tiny.sentences(10), skip_first=3)
    kept = maker.mask.keep_ids(made)
    assert not kept[:, :4].any()
    assert np.array_equal(kept[:, 4:], made.doc[:, 4:] >= 0)


def test_a_mask_rule_by_hand():
    batch = ContextBatch(
        np.array([[0, 5, 1, 7, 8, 2]], np.int32),
        np.array([[-1, 0, 0, 0, 0, -1]], np.int32),
        np.array([[-1, 0, 1, 2, 3, -1]], np.int32),
    )
    keep = MaskRule(special=(0, 1, 2), prefix=1, skip_first=1, norm_limit=None).keep_ids(batch)
    assert keep.tolist() == [[False, False, False, True, True, False]]


# ---------------------------------------------------------------- prefixes


def test_bos_falls_back_to_eos_then_to_padding(tokenizer):
    class Tokens:
        bos_token_id = eos_token_id = pad_token_id = None

    tokens = Tokens()
    with pytest.raises(ModelError, match="neither BOS, EOS nor padding"):
        bos_of(tokens)
    tokens.pad_token_id = 7
    assert bos_of(tokens) == 7
    tokens.eos_token_id = 5
    assert bos_of(tokens) == 5
    tokens.bos_token_id = 0  # a falsy id is an id
    assert bos_of(tokens) == 0


def test_a_chat_prefix_is_the_opening_of_a_users_turn():
    made = tiny.tokenizer()
    with pytest.raises(ModelError, match="no chat template; leave --chat out"):
        prefix_of(made, chat=True)
    made.chat_template = tiny.CHAT_TEMPLATE
    opening = [0, *_ids(made, "<user> ")]
    assert list(prefix_of(made, chat=True)) == opening
    made.chat_template = tiny.CHAT_TEMPLATE.replace("{{ bos_token }}", "")
    assert list(prefix_of(made, chat=True)) == opening, "BOS is put in front of any template"
    maker, batch = _made(made, tiny.sentences(5), context=32, chat=True)
    n = len(opening)
    assert (batch.ids[:, :n] == opening).all() and (batch.doc[:, :n] == -1).all()
    assert not maker.mask.keep_ids(batch)[:, :n].any() and maker.mask.prefix == n
    assert (batch.position[:, n] >= 0).all()
    with pytest.raises(TextError, match=f"leaves no room after a prefix of {n}"):
        ContextMaker(made, ContextRule(context=n + 3, chat=True, skip_first=3), 100)


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize("make", [tiny.tokenizer, tiny.sentencepiece_like])
@pytest.mark.parametrize("text", [*HARD.values(), "plain words: re reread", "x" * 50], ids=repr)
def test_the_bytes_of_tokens_join_to_the_bytes_of_the_text(make, text):
    made = make()
    table = token_bytes(made)
    ids = _ids(made, text)
    assert b"".join(table[i][0] for i in ids) == text.encode("utf-8")
    assert not any(table[i][1] for i in ids)


@pytest.mark.parametrize("make", [tiny.tokenizer, tiny.sentencepiece_like])
def test_every_id_has_bytes_and_special_ones_say_so(make):
    made = make()
    table = token_bytes(made)
    assert len(table) == len(made)
    assert {i for i, (_, special) in enumerate(table) if special} == set(made.all_special_ids)
    assert table[made.bos_token_id][0] == made.bos_token.encode()
    if make is tiny.tokenizer:
        assert {raw for raw, _ in table} >= {bytes([b]) for b in range(256)}
    else:
        assert table[made.convert_tokens_to_ids("\u2581re")][0] == b" re"


def test_tokens_of_a_split_character_are_parts_of_it(tokenizer):
    table = token_bytes(tokenizer)
    pieces = [table[i][0] for i in _ids(tokenizer, "\U0001f389")]
    assert len(pieces) == 4 and b"".join(pieces) == "\U0001f389".encode()


def test_a_megabyte_in_one_line_passes(tokenizer):
    text = "abcdefghij " * 90_000 + "x" * 30_000
    maker, made = _made(tokenizer, [text], tokens=500, batch=8, context=64)
    assert maker.documents[0].n_tokens == len(_ids(tokenizer, text)) > 100_000
    table = token_bytes(tokenizer)
    first = made.ids[0, 1:]
    assert text.encode().startswith(b"".join(table[i][0] for i in first))


def test_documents_without_any_token_take_no_context():
    """A tokenizer that strips its input can leave nothing of a document."""
    from tokenizers import normalizers

    made = tiny.tokenizer()
    made.backend_tokenizer.normalizer = normalizers.Replace("\x00", "")
    for pack in (False, True):
        maker, batch = _made(made, ["zqx", "\x00", "jkv"], pack=pack)
        assert set(batch.doc.ravel().tolist()) == {-1, 0, 2}
        assert [d.n_tokens for d in maker.documents] == [3, 0, 3]

"""Text as it comes: null bytes, a line of a megabyte, scripts from the right, joined emoji, empty
documents. Through the whole harvest and back, byte for byte; and features that never or always
fire."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

import run
from data import lm as language_models
from data.features_store import FeatureStore
from data.records import FeatureFilter
from data.schema import PIECE, open_root
from data.tokens import ContextRule, mask_rule
from data.windows import window
from data.workspace import Workspace
from sae import formats
from tests import tiny

RULE = ContextRule(context=16)
FEATURES, DEAD, ALWAYS = 24, 22, 23  # tiny.random_sae: the last but one, and the last
LINE = " ".join(np.random.default_rng(0).choice(tiny.WORDS, 220_000))  # a megabyte, no line break
TEXTS = {
    "null": "before\x00after \x00\x00 return None",
    "right to left": "שלום עולם \u200fمرحبا بالعالم\u200e return 1",
    "emoji": "family 👩‍👩‍👧‍👦 flag 🏳️‍🌈 skin 👍🏽 def f():",
    "nothing": "",
    "blanks": " \t\n  \r\n",
    "special": f"{tiny.EOS}{tiny.BOS}{tiny.EOS}",
    "controls": "\x01\x1b[31mred\x7f \ufffe \u2028 end",
    "composed": "e\u0301 \u1100\u1161\u11a8 A\u0328\u0301 \U0001d54f",
    "surrogate": "half \ud83d a pair",
    "windows": "one\r\ntwo\rthree\n",
    **{f"plain {n}": text for n, text in enumerate(tiny.sentences(60))},
    "line": LINE,
}
KEPT = [name for name, text in TEXTS.items() if text.strip()]


@pytest.fixture(scope="module")
def harvested(tmp_path_factory) -> Workspace:
    folder = tmp_path_factory.mktemp("text")
    model = str(tiny.save(folder / "model"))
    text = str(tiny.write_jsonl(folder / "text.jsonl", list(TEXTS.values())))
    made, lm = Workspace.open(folder / "workspace"), language_models.load(model, "cpu")
    ids = np.random.default_rng(0).integers(3, tiny.VOCAB, (60, 16))
    x = lm.capture(torch.from_numpy(ids), ["resid_post.1"])["resid_post.1"]
    mask = mask_rule(lm.tokenizer, RULE, None)
    record = {
        "lm": model, "lm_weights": lm.fingerprint, "dtype": "float32", "site": "resid_post.1",
        "text": text, "text_field": "text", "corpus_tokens": 9_000, "rule": asdict(RULE),
        "mask": asdict(mask),
    }  # fmt: skip
    with made.new_sae("one") as part:
        sae = tiny.random_sae(x.flatten(0, 1).numpy(), FEATURES, share=0.2)
        # Rows of other texts lie elsewhere: it must be on whatever comes.
        sae.W_enc.data[:, ALWAYS], sae.b_enc.data[ALWAYS] = 0, 1
        formats.save(sae, part, {"workbench": record})
    assert run.main(["harvest", "one", "--device", "cpu", "--workspace", str(made.root)]) == 0
    return made


@pytest.fixture(scope="module")
def store(harvested):
    root = open_root()
    yield FeatureStore(root, harvested.feature_store("one"))
    root.close()


@pytest.fixture(scope="module")
def documents(store) -> dict[str, tuple[int, list[int]]]:
    """name in TEXTS -> (number, token ids), as the store has them."""
    with store.root.reading(store.path) as (cursor, alias):
        rows = cursor.execute(f"SELECT doc, ids FROM {alias}.doc ORDER BY doc").fetchall()
    return dict(zip(KEPT, rows, strict=False))


def test_every_text_comes_back_byte_for_byte(store, documents):
    assert list(documents) == KEPT, "empty ones are left out, no other is"
    pieces = store.vocabulary()
    for name, (_, ids) in documents.items():
        text = TEXTS[name].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert b"".join(pieces[i][0] for i in ids) == text.encode(), name
    assert all(pieces[i][1] for i in documents["special"][1])


def test_a_line_of_a_megabyte_is_one_document_in_pieces(store, documents):
    doc, ids = documents["line"]
    assert len(LINE) > 1_000_000 and len(ids) > 100 * PIECE
    found = [e for i in range(FEATURES) for e in store.examples(i) if e.doc == doc]
    assert found and len({e.start // PIECE for e in found}) > 3
    for example in found:
        assert list(example.ids) == ids[example.start : example.start + len(example.ids)]


def test_windows_of_every_text_are_its_own(store, documents):
    ids = {doc: its for doc, its in documents.values()}
    seen = set()
    for i in range(FEATURES):
        for example in store.examples(i):
            cut = window(example, 5)
            assert list(cut.ids) == ids[cut.doc][cut.start : cut.start + len(cut.ids)]
            assert len(cut.values) == len(cut.ids) <= 5
            assert cut.ids[cut.peak] == example.ids[example.peak]
            seen.add(KEPT[example.doc])
    assert {"null", "right to left", "emoji", "line", "composed"} <= seen


def test_special_tokens_are_no_ones_example(store, documents):
    """They are left out by the mask: nothing fires on them, and nothing is drawn from them."""
    doc, _ = documents["special"]
    pieces = store.vocabulary()
    for i in range(FEATURES):
        for example in store.examples(i):
            assert example.doc != doc and not pieces[example.ids[example.peak]][1]


def test_a_feature_that_never_fires(store):
    stats = store.feature(DEAD)
    assert stats.dead and stats.fires == 0 and stats.density == 0
    absent = (stats.mean, stats.sd, stats.max, stats.q50, stats.first_doc, stats.peak_token)
    assert absent == (None,) * 6 and sum(stats.hist_counts) == 0
    assert {e.kind for e in store.examples(DEAD)} <= {"random", "near_miss"}
    assert len(store.examples(DEAD, "random")) == 20
    assert all(not any(e.values) for e in store.examples(DEAD))
    assert DEAD in [row.feature for row in store.rows(FeatureFilter(alive=False))[0]]
    with_mean = store.rows(FeatureFilter(sort="mean", descending=True))[0]
    assert with_mean[-1].mean is None, "what is absent comes last"


def test_a_feature_that_fires_on_every_token(store):
    stats, tokens = store.feature(ALWAYS), store.meta["tokens"]
    assert stats.fires == tokens == sum(stats.hist_counts) == sum(stats.positions)
    assert stats.density == 1 and stats.dense_1 and stats.dense_10 and not stats.dead
    found = store.examples(ALWAYS)
    assert {e.kind for e in found} == {"top", "quantile", "active"}, "it is silent nowhere"
    assert all(e.max == pytest.approx(stats.max) for e in found), "the same everywhere"
    assert stats.sd == pytest.approx(0, abs=1e-6)

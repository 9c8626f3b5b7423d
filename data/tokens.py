"""Text to contexts: fixed-shape rows of token ids that begin with BOS and never span documents.

In:  documents and a tokenizer. Out: `ContextBatch`es with document and position of every token,
     the rule that says which tokens count, and the exact bytes of every token id.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from data.errors import ModelError, TextError
from data.records import Document, DocumentRow
from data.text import min_hash, split_of, use_of

TOKENISE_AT_ONCE = 64  # documents handed to the tokenizer together


@dataclass(frozen=True)
class ContextRule:
    """How text becomes contexts. Recorded with everything that is made from them."""

    context: int = 256  # tokens of a context, its prefix included
    pack: bool = False  # documents joined by BOS in one context, as the papers do
    chat: bool = False  # each document as a user's message of the model's chat template
    skip_first: int = 0  # positions after the prefix that are masked too
    per_document: int | None = None  # contexts of one document at most; None: all of it

    def __post_init__(self) -> None:
        if self.context < 8:
            raise TextError(f"--context {self.context} is too short: use at least 8 tokens")
        if not 0 <= self.skip_first < self.context - 1:
            raise TextError(
                f"--skip-first {self.skip_first} leaves nothing of {self.context} tokens"
            )
        if self.per_document is not None and self.per_document < 1:
            raise TextError(f"--per-document {self.per_document}: give 1 or more, or leave it out")


@dataclass(frozen=True)
class ContextBatch:
    """Contexts side by side. -1 in `doc` and `position` marks prefix, separator and padding."""

    ids: np.ndarray  # int32 [n, context]
    doc: np.ndarray  # int32 [n, context]
    position: np.ndarray  # int32 [n, context], token's position in its document


@dataclass(frozen=True)
class MaskRule:
    """Which tokens count: one rule at training, harvest, evaluation and display.

    Left out: prefix, special tokens, padding, the first `skip_first` positions, and tokens whose
    activation norm exceeds `norm_limit` (10 times the median norm of the cache's first batch).
    """

    special: tuple[int, ...]
    prefix: int  # length of the prefix (BOS, or a chat template's opening)
    skip_first: int
    norm_limit: float | None  # None: not yet known

    def keep_ids(self, batch: ContextBatch) -> np.ndarray:
        """bool [n, context], by ids and positions only."""
        keep = (batch.doc >= 0) & ~np.isin(batch.ids, self.special)
        keep[:, : self.prefix + self.skip_first] = False
        return keep


def bos_of(tokenizer) -> int:
    """The token contexts begin with: BOS, or EOS for tokenizers that use one token for both."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        if token is not None:
            return int(token)
    raise ModelError("this tokenizer has neither BOS, EOS nor padding token to begin contexts with")


def prefix_of(tokenizer, chat: bool) -> tuple[int, ...]:
    """What every context begins with: BOS, or the opening of a user's turn of a chat model."""
    if not chat:
        return (bos_of(tokenizer),)
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError("--chat: this model's tokenizer has no chat template; leave --chat out")
    mark = "\u241f"  # a character no template contains
    text = tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False)
    ids = tokenizer(text.split(mark)[0], add_special_tokens=False)["input_ids"]
    return tuple(ids) if ids and ids[0] == tokenizer.bos_token_id else (bos_of(tokenizer), *ids)


def special_ids(tokenizer) -> set[int]:
    """Tokens that stand for no text: BOS and the like, and a chat model's marks of turns."""
    marks = {i for i, added in tokenizer.added_tokens_decoder.items() if added.special}
    return {int(i) for i in tokenizer.all_special_ids} | marks


def mask_rule(tokenizer, rule: ContextRule, norm_limit: float | None) -> MaskRule:
    special = special_ids(tokenizer) | {bos_of(tokenizer)}
    prefix = len(prefix_of(tokenizer, rule.chat))
    return MaskRule(tuple(sorted(special)), prefix, rule.skip_first, norm_limit)


class ContextMaker:
    """Turns a stream of documents into context batches and remembers the documents it used.

    Ends once `tokens` tokens that the mask keeps have been handed out. After iteration
    `documents` and `document_ids` hold what was used, each document's ids once.
    """

    def __init__(self, tokenizer, rule: ContextRule, tokens: int, batch: int = 32) -> None:
        if tokens < 1:
            raise TextError(f"--tokens {tokens} is less than one token")
        self.tokenizer, self.rule, self.tokens, self.batch = tokenizer, rule, tokens, batch
        self.prefix = np.asarray(prefix_of(tokenizer, rule.chat), dtype=np.int32)
        self.mask = mask_rule(tokenizer, rule, None)
        if len(self.prefix) + rule.skip_first >= rule.context:
            raise TextError(
                f"--context {rule.context} leaves no room after a prefix of {len(self.prefix)}"
            )
        self.documents: list[DocumentRow] = []
        self.document_ids: list[np.ndarray] = []
        self._last_used = -1

    def __call__(self, documents: Iterable[Document]) -> Iterator[ContextBatch]:
        rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        kept = 0
        pieces = self._packed(documents) if self.rule.pack else self._separate(documents)
        for piece in pieces:
            rows.append(piece)
            if len(rows) < self.batch:
                continue
            batch = self._stack(rows)
            rows = []
            kept += int(self.mask.keep_ids(batch).sum())
            yield batch
            if kept >= self.tokens:
                break
        if rows:
            yield self._stack(rows)
        self._forget_unused()

    def _tokenised(self, documents: Iterable[Document]) -> Iterator[tuple[int, np.ndarray]]:
        waiting: list[Document] = []
        contexts, room = self.rule.per_document, self.rule.context - len(self.prefix)
        longest = None if contexts is None else contexts * room

        def flush() -> Iterator[tuple[int, np.ndarray]]:
            encoded = self.tokenizer(
                [d.text for d in waiting], add_special_tokens=False, verbose=False
            )
            for document, ids in zip(waiting, encoded["input_ids"], strict=True):
                ids = ids[:longest]
                minimum = min_hash(document.text)
                number = len(self.documents)
                row = DocumentRow(
                    number, document.name, split_of(minimum), use_of(minimum), minimum, len(ids)
                )
                self.documents.append(row)
                self.document_ids.append(np.asarray(ids, dtype=np.int32))
                yield number, self.document_ids[-1]
            waiting.clear()

        for document in documents:
            waiting.append(document)
            if len(waiting) == TOKENISE_AT_ONCE:
                yield from flush()
        if waiting:
            yield from flush()

    def _separate(self, documents: Iterable[Document]) -> Iterator[tuple]:
        room = self.rule.context - len(self.prefix)
        for doc, ids in self._tokenised(documents):
            for start in range(0, len(ids), room):
                part = ids[start : start + room]
                where = np.arange(start, start + len(part), dtype=np.int32)
                yield part, np.full(len(part), doc, dtype=np.int32), where

    def _packed(self, documents: Iterable[Document]) -> Iterator[tuple]:
        room = self.rule.context - len(self.prefix)
        separator = np.asarray([bos_of(self.tokenizer)], dtype=np.int32)
        none = np.asarray([-1], dtype=np.int32)
        empty: list[np.ndarray] = [np.empty(0, dtype=np.int32)] * 3
        # A stream for each part that training treats apart: a context mixes no two of them.
        streams: dict[tuple[str, bool], list[np.ndarray]] = {}
        for doc, ids in self._tokenised(documents):
            part = (self.documents[doc].split, self.documents[doc].use == "calibrate")
            stream = streams.get(part, empty)
            where = np.arange(len(ids), dtype=np.int32)
            new = (ids, np.full(len(ids), doc, dtype=np.int32), where)
            if len(stream[0]):
                marks = (separator, none, none)
                new = tuple(np.concatenate(pair) for pair in zip(marks, new, strict=True))
            stream = [np.concatenate(pair) for pair in zip(stream, new, strict=True)]
            while len(stream[0]) >= room:
                yield tuple(column[:room] for column in stream)
                stream = [column[room:] for column in stream]
            streams[part] = stream
        yield from (tuple(stream) for stream in streams.values() if len(stream[0]))

    def _stack(self, rows: list[tuple]) -> ContextBatch:
        n, context, first = len(rows), self.rule.context, len(self.prefix)
        pad = self.tokenizer.pad_token_id
        ids = np.full((n, context), bos_of(self.tokenizer) if pad is None else pad, dtype=np.int32)
        doc = np.full((n, context), -1, dtype=np.int32)
        position = np.full((n, context), -1, dtype=np.int32)
        ids[:, :first] = self.prefix
        for row, (part, docs, where) in enumerate(rows):
            end = first + len(part)
            ids[row, first:end], doc[row, first:end], position[row, first:end] = part, docs, where
        self._last_used = max(self._last_used, int(doc.max()))
        return ContextBatch(ids, doc, position)

    def _forget_unused(self) -> None:
        """Documents were tokenised a few ahead; those no context used are dropped again."""
        used = self._last_used + 1
        del self.documents[used:], self.document_ids[used:]


# ---------------------------------------------------------------- bytes of tokens


def _byte_level_alphabet() -> dict[str, int]:
    """Character -> byte of the byte-level BPE alphabet (GPT-2): printable bytes stand for
    themselves, the others for the code points from 256 on, in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    table = {chr(b): b for b in printable}
    table.update({chr(256 + i): b for i, b in enumerate(others)})
    return table


def token_bytes(tokenizer) -> list[tuple[bytes, bool]]:
    """(bytes, special) of every id. Bytes of one character may lie in several tokens."""
    decoder = json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder") or {}
    kinds = {decoder.get("type")} | {d.get("type") for d in decoder.get("decoders", [])}
    alphabet = _byte_level_alphabet() if "ByteLevel" in kinds else None
    special = special_ids(tokenizer)
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    result = []
    for i, piece in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        if i in added or piece is None:
            raw = (added.get(i) or "").encode()
        elif alphabet is not None:
            raw = bytes(alphabet[c] for c in piece)
        elif len(piece) == 6 and piece.startswith("<0x"):
            raw = bytes([int(piece[3:5], 16)])
        else:
            raw = piece.replace("\u2581", " ").encode()
        result.append((raw, i in special))
    return result

"""The activation cache: one pass of the language model, kept on disk, shared by everything after.

In:  a language model, a site, a text source. Out: a folder of plain arrays in corpus order and a
     manifest; rows for training in a shuffled order whose whole state is a seed and an integer.

    activations.f32   [n_rows, d_in]       only tokens the mask keeps
    rows.i32          [n_rows, 4]          document, position in it, context, column of each row
    ids.i32           [n_contexts, context]
    documents.json    DocumentRow of each document; document_ids.i32, their tokens end to end
    manifest.json     shapes and everything the folder's name is a hash of
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from data.errors import ModelError, TextError, WorkspaceError
from data.lm import LanguageModel
from data.records import DocumentRow
from data.sites import locate
from data.text import TEXT_SUFFIXES, documents
from data.tokens import ContextBatch, ContextMaker, ContextRule, MaskRule

NORM_LIMIT_MEDIANS = 10.0  # tokens with a norm beyond so many medians are attention sinks
POOL_ROWS = 262_144
PIECE_ROWS = 16_384  # of a shuffled pool, copied at once


@dataclass(frozen=True)
class ActivationSpec:
    """Which activations: everything that decides their values."""

    lm: str = "demo"
    site: str = "resid_post.2"
    text: str = "python:stdlib"
    text_field: str = "text"
    tokens: int = 1_000_000
    rule: ContextRule = ContextRule()
    dtype: str = "float32"  # of the language model

    def key(self, lm: LanguageModel) -> str:
        """Name of the cache folder: a hash of the request, the weights and the text."""
        parts = {**asdict(self), "weights": lm.fingerprint, "source": source_fingerprint(self.text)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def source_fingerprint(source: str) -> str:
    """Hash of what a text source is now: names, sizes and times of its files."""
    path = Path(source).expanduser()
    if source == "python:installed":
        facts = sorted(f"{found.name} {found.version}" for found in metadata.distributions())
    elif source.startswith("python:") or not path.exists():
        facts = [sys.version, source]
    else:
        files = sorted(p for p in path.rglob("*") if p.suffix in TEXT_SUFFIXES) or [path]
        facts = [(p.as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True)
class CaptureStep:
    """Progress of building a cache."""

    tokens: int
    total: int


def build_cache(
    folder: Path, lm: LanguageModel, spec: ActivationSpec, batch: int = 32
) -> Iterator[CaptureStep]:
    """Runs the model over the text once and fills `folder` (made by the caller, who publishes it).

    Raises TextError when the text holds no token that the masks keep, ModelError when the model
    gives values that are not finite.
    """
    locate(lm.model, spec.site)  # refuse a bad site before any work
    limit = lm.context_limit
    if limit is not None and spec.rule.context > limit:
        raise TextError(f"--context {spec.rule.context} is longer than this model's {limit} tokens")
    maker = ContextMaker(lm.tokenizer, spec.rule, spec.tokens, batch)
    norm_limit, high_norm, n_rows, n_contexts, d_in = None, 0, 0, 0, 0
    with (
        (folder / "activations.f32").open("wb") as activations_file,
        (folder / "rows.i32").open("wb") as rows_file,
        (folder / "ids.i32").open("wb") as ids_file,
    ):
        for contexts in maker(documents(spec.text, spec.text_field)):
            ids = torch.from_numpy(contexts.ids.astype(np.int64))
            x = lm.capture(ids, [spec.site])[spec.site].float().cpu().numpy()
            norms = np.linalg.norm(x, axis=-1)
            keep = maker.mask.keep_ids(contexts)
            if not np.isfinite(norms[keep]).all():
                raise ModelError(
                    f"activations at {spec.site} of {spec.lm} in {spec.dtype} are not finite: "
                    "use --dtype float32, or another site"
                )
            if norm_limit is None and keep.any():
                norm_limit = float(NORM_LIMIT_MEDIANS * np.median(norms[keep]))
            loud = keep & (norms > (norm_limit or np.inf))
            high_norm += int(loud.sum())
            keep &= ~loud
            activations_file.write(np.ascontiguousarray(x[keep]).tobytes())
            rows_file.write(_row_index(contexts, keep, n_contexts).tobytes())
            ids_file.write(contexts.ids.tobytes())
            n_rows, n_contexts = n_rows + int(keep.sum()), n_contexts + len(ids)
            d_in = x.shape[-1]
            yield CaptureStep(n_rows, spec.tokens)
    if n_rows == 0:
        raise TextError(f"no token of {spec.text!r} is left after the masks; name another --text")
    _write_documents(folder, maker)
    manifest = {
        "spec": asdict(spec),
        "weights": lm.fingerprint,
        "n_rows": n_rows,
        "n_contexts": n_contexts,
        "d_in": d_in,
        "mask": asdict(maker.mask) | {"norm_limit": norm_limit},
        "high_norm": high_norm,
        "n_documents": len(maker.documents),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _row_index(contexts: ContextBatch, keep: np.ndarray, first_context: int) -> np.ndarray:
    """int32 [kept, 4]: document, position, context, column."""
    row, column = np.nonzero(keep)
    parts = (contexts.doc[keep], contexts.position[keep], row + first_context, column)
    return np.stack(parts, axis=1).astype(np.int32)


def _write_documents(folder: Path, maker: ContextMaker) -> None:
    rows = [asdict(document) for document in maker.documents]
    (folder / "documents.json").write_text(json.dumps(rows))
    np.concatenate(maker.document_ids).astype(np.int32).tofile(folder / "document_ids.i32")


class ActivationCache:
    """A finished cache folder, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.manifest = json.loads((folder / "manifest.json").read_text())
        except (OSError, json.JSONDecodeError):
            raise WorkspaceError(
                f"{folder} is not a finished activation cache: remove it, it will be made again"
            ) from None
        n_rows, d_in = self.manifest["n_rows"], self.manifest["d_in"]
        self.n_rows, self.d_in = n_rows, d_in
        self.x = self._map("activations.f32", np.float32, (n_rows, d_in))
        index = self._map("rows.i32", np.int32, (n_rows, 4))
        self.doc, self.position, self.context, self.column = index.T
        context = self.manifest["spec"]["rule"]["context"]
        self.ids = self._map("ids.i32", np.int32, (self.manifest["n_contexts"], context))

    def _map(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        path = self.folder / name
        expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not path.exists() or path.stat().st_size != expected:
            raise WorkspaceError(
                f"{path} is damaged (expected {expected} bytes): remove {self.folder}, "
                "it will be made again"
            )
        return np.memmap(path, dtype=dtype, mode="r", shape=shape)

    @property
    def mask(self) -> MaskRule:
        mask = dict(self.manifest["mask"])
        return MaskRule(**{**mask, "special": tuple(mask["special"])})

    @cached_property
    def documents(self) -> list[DocumentRow]:
        path = self.folder / "documents.json"
        try:
            rows = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError):
            rows = []
        if len(rows) != self.manifest["n_documents"]:
            raise WorkspaceError(f"{path} is damaged: remove {self.folder}, it will be made again")
        return [DocumentRow(**row) for row in rows]

    @cached_property
    def document_ids(self) -> list[np.ndarray]:
        lengths = [d.n_tokens for d in self.documents]
        flat = self._map("document_ids.i32", np.int32, (sum(lengths),))
        return np.split(np.array(flat), np.cumsum(lengths)[:-1])

    @cached_property
    def context_rows(self) -> np.ndarray:
        """int64 [n_contexts + 1]: rows of context c are context_rows[c] to context_rows[c + 1]."""
        return np.searchsorted(self.context, np.arange(len(self.ids) + 1))

    def contexts_where(self, split: str, use: str | None = None, not_use: str | None = None):
        """int64 [n]: contexts all of whose tokens lie in documents of that split (and use)."""
        good = np.array(
            [
                d.split == split
                and (use is None or d.use == use)
                and (not_use is None or d.use != not_use)
                for d in self.documents
            ]
        )
        bad_rows = np.bincount(self.context, weights=~good[self.doc], minlength=len(self.ids))
        rows = np.diff(self.context_rows)
        return np.flatnonzero((bad_rows == 0) & (rows > 0))

    def rows_of(self, contexts: np.ndarray) -> np.ndarray:
        """Row numbers of the given contexts, in their order."""
        starts, ends = self.context_rows[contexts], self.context_rows[contexts + 1]
        if len(contexts) == 0:
            return np.empty(0, dtype=np.int64)
        lengths = ends - starts
        offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
        return offsets + np.arange(int(lengths.sum()))


class ShuffledRows:
    """Every row of the chosen contexts exactly once an epoch, in a seeded random order.

    Contexts are permuted across the whole corpus and gathered into pools of at least
    `pool` rows; rows are permuted inside a pool, so one pool is in memory at a time. The state
    is the seed and the number of rows handed out. Meets sae.trainer.Source.
    """

    def __init__(
        self, cache: ActivationCache, contexts: np.ndarray, seed: int, pool: int = POOL_ROWS
    ) -> None:
        if len(contexts) == 0:
            raise TextError(
                "no document of this text falls into the training split; use a longer text"
            )
        if seed < 0:
            raise TextError(f"--seed {seed} is negative: give 0 or more")
        self.cache, self.contexts, self.seed, self.pool = cache, contexts, seed, pool
        self.lengths = np.diff(cache.context_rows)[contexts]
        self.n_rows = int(self.lengths.sum())
        self.taken = 0

    def state(self) -> dict:
        return {"seed": self.seed, "taken": self.taken}

    def seek(self, taken: int) -> None:
        """Goes on after `taken` rows, counted from the very first one."""
        self.taken = taken

    def _pools(self, epoch: int) -> list[np.ndarray]:
        """The epoch's contexts, in order, cut into pools of at least `pool` rows."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.contexts))
        ends = np.cumsum(self.lengths[order])
        pools, start = [], 0
        while start < len(order):
            before = ends[start - 1] if start else 0
            stop = int(np.searchsorted(ends, before + self.pool)) + 1
            # A remainder smaller than a pool joins the pool before it.
            if stop >= len(order) or ends[-1] - ends[stop - 1] < self.pool:
                stop = len(order)
            pools.append(self.contexts[order[start:stop]])
            start = stop
        return pools

    def _chunks(self) -> Iterator[torch.Tensor]:
        """Rows from `taken` on, endlessly, in pieces of one pool after another."""
        epoch, skip = divmod(self.taken, self.n_rows)
        while True:
            for number, contexts in enumerate(self._pools(epoch)):
                rows = self.cache.rows_of(contexts)
                if skip >= len(rows):
                    skip -= len(rows)
                    continue
                # Reading in corpus order keeps the disk sequential; the shuffle happens in memory.
                x = torch.from_numpy(self.cache.x[np.sort(rows)])
                order = np.random.default_rng([self.seed, epoch, number]).permutation(len(rows))
                # Piece by piece: a shuffled copy of the whole pool would double its memory.
                for start in range(skip, len(rows), PIECE_ROWS):
                    yield x[torch.from_numpy(order[start : start + PIECE_ROWS])]
                skip = 0
                del x
            epoch += 1

    def batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Endless float32 batches [batch_size, d_in]; advances the state."""
        waiting: torch.Tensor | None = None
        for chunk in self._chunks():
            rows = chunk if waiting is None else torch.cat([waiting, chunk])
            whole = len(rows) // batch_size * batch_size
            for start in range(0, whole, batch_size):
                self.taken += batch_size
                yield rows[start : start + batch_size]
            waiting = rows[whole:].clone()

"""The activation cache: one pass of the language model, kept on disk, shared by everything after.

In:  a language model, sites, a text source. Out: for each site a folder of plain arrays in corpus
     order and a manifest; rows for training in a shuffled order whose whole state is a seed and an
     integer.

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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
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
    """Progress of building caches."""

    tokens: int  # kept so far, at the site that keeps fewest
    total: int


def build_cache(
    folder: Path, lm: LanguageModel, spec: ActivationSpec, batch: int = 32
) -> Iterator[CaptureStep]:
    """`build_caches` of the one site that `spec` names."""
    return build_caches({spec.site: folder}, lm, spec, batch)


def build_caches(
    folders: Mapping[str, Path], lm: LanguageModel, spec: ActivationSpec, batch: int = 32
) -> Iterator[CaptureStep]:
    """Runs the model over the text once and fills a folder for each site.

    folders: site -> its folder (made by the caller, who publishes it). `spec` says everything else;
    its own site is not looked at. Each folder gets the bytes it would get alone. In memory: one
    batch of activations [batch, context, d_in] for each site.

    Raises TextError when the text holds no token that the masks keep, ModelError when the model
    gives values that are not finite.
    """
    for site in folders:
        locate(lm.model, site)  # refuse a bad site before any work
    limit = lm.context_limit
    if limit is not None and spec.rule.context > limit:
        raise TextError(f"--context {spec.rule.context} is longer than this model's {limit} tokens")
    maker = ContextMaker(lm.tokenizer, spec.rule, spec.tokens, batch)
    with ExitStack() as files:
        writers = [
            _SiteWriter(folder, replace(spec, site=site), files) for site, folder in folders.items()
        ]
        for contexts in maker(documents(spec.text, spec.text_field)):
            found = lm.capture(torch.from_numpy(contexts.ids.astype(np.int64)), list(folders))
            keep = maker.mask.keep_ids(contexts)
            for writer in writers:
                # Popped, so that a site's activations leave the device once they are written.
                x = found.pop(writer.spec.site).float().cpu().numpy()
                writer.add(x, contexts, keep)
            yield CaptureStep(min(writer.n_rows for writer in writers), spec.tokens)
    for writer in writers:
        writer.finish(maker, lm.fingerprint)


class _SiteWriter:
    """The folder of one site while it fills; norms are judged here, by the site's own median."""

    def __init__(self, folder: Path, spec: ActivationSpec, files: ExitStack) -> None:
        self.folder, self.spec = folder, spec
        self.activations, self.rows, self.ids = (
            files.enter_context((folder / name).open("wb"))
            for name in ("activations.f32", "rows.i32", "ids.i32")
        )
        self.norm_limit: float | None = None
        self.n_rows = self.n_contexts = self.high_norm = self.d_in = 0

    def add(self, x: np.ndarray, contexts: ContextBatch, keep: np.ndarray) -> None:
        """x: float32 [n, context, d_in]; keep: bool [n, context], tokens the mask keeps by id."""
        norms = np.linalg.norm(x, axis=-1)
        if not np.isfinite(norms[keep]).all():
            raise ModelError(
                f"activations at {self.spec.site} of {self.spec.lm} in {self.spec.dtype} are not "
                "finite: use --dtype float32, or another site"
            )
        if self.norm_limit is None and keep.any():
            self.norm_limit = float(NORM_LIMIT_MEDIANS * np.median(norms[keep]))
        loud = keep & (norms > (self.norm_limit or np.inf))
        keep = keep & ~loud  # a new array: the other sites read the old one
        self.activations.write(np.ascontiguousarray(x[keep]).tobytes())
        self.rows.write(_row_index(contexts, keep, self.n_contexts).tobytes())
        self.ids.write(contexts.ids.tobytes())
        self.high_norm += int(loud.sum())
        self.n_rows += int(keep.sum())
        self.n_contexts += len(contexts.ids)
        self.d_in = x.shape[-1]

    def finish(self, maker: ContextMaker, weights: str) -> None:
        """Adds the documents and, last of all, the manifest; the arrays are closed by now."""
        if self.n_rows == 0:
            raise TextError(
                f"no token of {self.spec.text!r} is left after the masks; name another --text"
            )
        _write_documents(self.folder, maker)
        manifest = {
            "spec": asdict(self.spec),
            "weights": weights,
            "n_rows": self.n_rows,
            "n_contexts": self.n_contexts,
            "d_in": self.d_in,
            "mask": asdict(maker.mask) | {"norm_limit": self.norm_limit},
            "high_norm": self.high_norm,
            "n_documents": len(maker.documents),
        }
        (self.folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


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

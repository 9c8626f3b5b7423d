"""A model on this machine, through transformers: no network, no key, on the GPU if there is one.

In:  a model folder, a hub id, or `demo`. Out: a `Client`. Requests that wait are gathered for a few
     milliseconds and answered together, padded on the left.

Each draw has random numbers of its own, from the prompt, the seed and the number of the draw, so it
comes out again whatever else is in the batch, up to the rounding that padding brings. Temperature
and top_p that are not set are the model's own; its top_k is not used. No structured output: the
schema goes into the prompt, and the first JSON object of the reply is parsed.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import ModelError
from interp.judges.answers import first_object, without_thoughts
from interp.judges.client import CallFailed, Reply, Request, Usage
from interp.judges.local_decoding import Row, decode
from interp.judges.local_prompts import STOP, written

TOKENS = 1024  # of a reply, where the request sets no limit


@dataclass
class _Waiting:
    request: Request
    future: asyncio.Future
    since: float = field(default_factory=time.perf_counter)


class LocalClient:
    """One model of this machine; loaded at the first request."""

    def __init__(
        self,
        path: str,
        device: str = "auto",
        dtype: str | None = None,
        most: int = 8,
        gather_ms: float = 5.0,
    ) -> None:
        """dtype: float32, bfloat16 or float16; None: bfloat16 on a GPU, else float32. most: replies
        generated together. ModelError for an unknown device or dtype."""
        from data.lm import DTYPES, pick_device

        self.device = pick_device(device)
        self.dtype = dtype or ("float32" if self.device == "cpu" else "bfloat16")
        if self.dtype not in DTYPES:
            raise ModelError(f"dtype {dtype!r} is unknown: use {', '.join(DTYPES)}")
        self.model, self.name = path, f"hf:{path}"
        self.endpoint = f"hf:{_mark(path)} {self.dtype} {self.device.partition(':')[0]}"
        self.most, self.gather = most, gather_ms / 1000
        self._lm: Any = None
        self._waiting: list[_Waiting] = []
        self._runner: asyncio.Task | None = None
        self._lock = threading.Lock()  # one batch at a time, whichever loop asks

    async def complete(self, request: Request) -> Reply:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, loop.create_future())
        self._waiting.append(waiting)
        runner = self._runner
        if runner is None or runner.done() or runner.get_loop() is not loop:
            self._runner = loop.create_task(self._run(loop))
        return await waiting.future

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answers what this loop waits for, batch after batch."""
        await asyncio.sleep(self.gather)
        while mine := [w for w in self._waiting if w.future.get_loop() is loop]:
            batch = [w for w in mine if not w.future.done()][: self.most]
            gone = {id(w) for w in batch} | {id(w) for w in mine if w.future.done()}
            self._waiting = [w for w in self._waiting if id(w) not in gone]
            try:
                answers = await asyncio.to_thread(self._answers, batch) if batch else []
            except asyncio.CancelledError:  # closed meanwhile
                for waiting in batch:
                    waiting.future.cancel()
                raise
            except Exception as error:  # told to those who wait, who would wait for ever
                answers = [error] * len(batch)
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.future.done():
                    if isinstance(answer, Exception):
                        waiting.future.set_exception(answer)
                    else:
                        waiting.future.set_result(answer)

    def models(self) -> list[str] | None:
        return None

    async def close(self) -> None:
        """Who still waits is cancelled; a batch under way ends with its next token."""
        if self._runner is not None and not self._runner.done():
            self._runner.cancel()
        for waiting in self._waiting:
            waiting.future.cancel()
        self._waiting = []
        await asyncio.to_thread(self._let_go)

    def _let_go(self) -> None:
        with self._lock:
            self._lm = None
        if self.device != "cpu":
            import torch

            gc.collect()  # modules refer to one another in circles
            torch.cuda.empty_cache()

    def memory(self) -> str:
        """What the model takes, in words; "" before it is loaded."""
        if self._lm is None:
            return ""
        weights = sum(p.numel() * p.element_size() for p in self._lm.model.parameters())
        said = f"{weights / 1e9:.2f} GB of weights in {self.dtype} on {self.device}"
        if self.device != "cpu":
            import torch

            peak, all_of_it = (
                torch.cuda.max_memory_allocated(self.device),
                torch.cuda.mem_get_info(),
            )
            said += f"; at most {peak / 1e9:.2f} of {all_of_it[1] / 1e9:.0f} GB used"
        return said

    # ------------------------------------------------------------ in a thread

    def _answers(self, batch: Sequence[_Waiting]) -> list[Reply | CallFailed]:
        with self._lock:
            if self._lm is None:
                self._lm = self._loaded()
            rows, answers = [], {}
            for number, waiting in enumerate(batch):
                try:
                    rows.append((number, self._row(waiting)))
                except CallFailed as failed:
                    answers[number] = failed
            for (number, _), row in zip(rows, self._decoded([r for _, r in rows]), strict=True):
                answers[number] = self._reply(batch[number], row)
        return [answers[number] for number in range(len(batch))]

    def _loaded(self) -> Any:
        from data.lm import load

        try:
            return load(self.model, self.device, self.dtype)
        except ModelError as error:
            raise CallFailed(str(error), again=False) from None

    def _decoded(self, rows: list[Row]) -> list[Row | CallFailed]:
        """The rows with their tokens; where memory is short, in halves."""
        import torch

        try:
            decode(self._lm.model, rows)
            return rows
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        except CallFailed as failed:
            return [failed] * len(rows)
        if len(rows) == 1:
            reason = f"{self.name} has too little memory for this prompt: {self.memory()}"
            return [CallFailed(reason, again=False)]
        half = len(rows) // 2
        self.most = max(half, 1)
        return [*self._decoded(rows[:half]), *self._decoded(rows[half:])]

    def _row(self, waiting: _Waiting) -> Row:
        """What is to be generated; CallFailed if the model cannot be asked so."""
        request, lm = waiting.request, self._lm
        text, templated = written(request, lm.tokenizer, self.name)
        ids = lm.tokenizer(text, add_special_tokens=not templated)["input_ids"]
        room = (lm.context_limit or len(ids) + TOKENS) - len(ids)
        if room < 1 or not ids:
            what = f"{len(ids)} tokens, and the model reads {lm.context_limit}" if ids else "empty"
            raise CallFailed(f"the prompt for {self.name} has {what}", again=False)
        own = lm.model.generation_config
        warm = bool(own.do_sample)
        temperature = request.temperature
        if temperature is None:
            temperature = (own.temperature or 1.0) if warm else 0.0
        top_p = request.top_p if request.top_p is not None else (own.top_p or 1.0) if warm else 1.0
        drawn = f"{request.seed} {request.draw} {text}".encode(errors="replace")
        return Row(
            ids,
            min(request.max_tokens or TOKENS, room),
            temperature,
            top_p,
            hashlib.sha256(drawn).digest(),
            None if templated else lambda tokens: STOP in lm.tokenizer.decode(tokens[-8:]),
            waiting.future.cancelled,
            text.rstrip().endswith("<think>"),
        )

    def _reply(self, waiting: _Waiting, row: Row | CallFailed) -> Reply | CallFailed:
        if isinstance(row, CallFailed):
            return row
        tokenizer = self._lm.tokenizer
        text = tokenizer.decode(row.tokens, skip_special_tokens=True)
        if row.stops_at is not None:
            text = text.partition(STOP)[0].strip()
        whole = "<think>" + text if row.begun_thinking else text
        answer = without_thoughts(whole)
        made, thoughts = len(row.tokens), None
        if answer != whole:
            thoughts = made - len(tokenizer(answer, add_special_tokens=False)["input_ids"])
            thoughts = max(thoughts, 0)
            made -= thoughts
        parsed = first_object(answer) if waiting.request.schema is not None else None
        usage = Usage(prompt=len(row.prompt), reply=made, thoughts=thoughts)
        ms = 1000 * (time.perf_counter() - waiting.since)
        version = self._lm.fingerprint
        return Reply(answer, parsed, row.finish, row.finish, usage, version, ms)


def _mark(path: str) -> str:
    """What tells one model from another under the same name: a hash of a folder's small files and
    of the sizes and dates of its weights; a hub id as it is."""
    from data.lm import DEMO

    folder = DEMO if path == "demo" else Path(path).expanduser()
    if not folder.is_dir():
        return path
    mark = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".jinja", ".model", ".txt"):
            mark.update(file.name.encode() + file.read_bytes())
        elif file.suffix in (".safetensors", ".bin"):
            about = file.stat()
            mark.update(f"{file.name} {about.st_size} {about.st_mtime_ns}".encode())
    return mark.hexdigest()[:16]

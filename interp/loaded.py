"""What the model worker holds: one language model and as many of its SAEs as memory allows.

In:  a workspace, names of SAEs wanted, a bound on the memory of their weights.
Out: engines that share the language model; what is being loaded, what failed, and why something
     that was held is held no longer.

One thread loads, in the order of asking, while requests go on. An SAE of another language model
makes that model the one held: both are in memory until the new one is there, so that the old one
stays if the new one cannot be loaded; where a GPU has no room for both, the old one goes first. Of
the SAEs the least recently used go first.
"""

from __future__ import annotations

import gc
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import WorkbenchError, WorkerError
from data.workspace import Workspace

STAGES = ("reading the SAE", "loading its language model", "joining the two")


@dataclass
class Loading:
    """One SAE on its way into memory."""

    sae: str
    beside: frozenset[str]  # asked for together with it: they stay
    began: float = field(default_factory=time.monotonic)
    stage: int = -1  # of STAGES; -1: it waits for others
    what: str = ""  # which model
    cancelled: bool = False


@dataclass(frozen=True)
class Held:
    """One SAE in memory."""

    engine: Any  # interp.engine.Engine
    version: tuple  # of its files, as they were read
    size: int  # bytes of its weights


class Loaded:
    """Safe between threads. Loads no torch before something is wanted."""

    def __init__(self, workspace: Path, device: str, bound: int) -> None:
        """bound: bytes of SAE weights held at once; one SAE is held whatever its size."""
        self.workspace, self.device, self.bound = Workspace.open(workspace), device, bound
        self.model: tuple[tuple, Any] | None = None  # (weights and dtype, LanguageModel)
        self.held: OrderedDict[str, Held] = OrderedDict()  # the least recently used first
        self.queue: list[Loading] = []  # the first is being loaded
        self.failed: dict[str, str] = {}
        self.gone: dict[str, tuple[str, bool]] = {}  # why, and whether it may come back unasked
        self.lock = threading.RLock()

    # ------------------------------------------------------------ asked by requests

    def want(self, saes: Sequence[str]) -> None:
        """Puts what is not there yet in the queue; returns at once."""
        with self.lock:
            for sae in saes:
                self._drop_if_changed(sae)
                coming = any(one.sae == sae and not one.cancelled for one in self.queue)
                if sae in self.held or coming:
                    continue
                self.failed.pop(sae, None)
                self.gone.pop(sae, None)
                self.queue.append(Loading(sae, frozenset(saes)))
                if len(self.queue) == 1:
                    threading.Thread(target=self._load_all, daemon=True).start()

    def cancel(self, saes: Sequence[str]) -> bool:
        """Gives up loading them; whether nothing is held or wanted any more."""
        with self.lock:
            for one in self.queue:
                if one.sae in saes:
                    one.cancelled = True
            return not self.held and all(one.cancelled for one in self.queue)

    def state(self, sae: str) -> dict:
        """{"state": stopped | loading | ready | failed, "detail", "seconds"}; and "again": True
        where it was held, and may be loaded again without asking."""
        with self.lock:
            self._drop_if_changed(sae)
            for place, one in enumerate(self.queue):
                if one.sae == sae and not one.cancelled:
                    return self._coming(one, place)
            if sae in self.held:
                return {"state": "ready", "detail": f"{sae} is loaded", "seconds": 0.0}
            if sae in self.failed:
                return {"state": "failed", "detail": self.failed[sae], "seconds": 0.0}
            why, again = self.gone.get(sae, (f"{sae} is not loaded", False))
            return {"state": "stopped", "detail": why, "seconds": 0.0, "again": again}

    def engines(self, saes: Sequence[str]) -> list[Any]:
        """Their engines, of one language model; WorkerError if one of them is not loaded."""
        with self.lock:
            found = []
            for sae in saes:
                self._drop_if_changed(sae)
                if sae not in self.held:
                    detail = self.state(sae)["detail"]
                    raise WorkerError(
                        f"{sae} is not loaded yet ({detail}): wait until the worker is ready"
                    )
                self.held.move_to_end(sae)
                found.append(self.held[sae].engine)
            return found

    def _coming(self, one: Loading, place: int) -> dict:
        seconds = time.monotonic() - one.began
        if one.stage < 0:
            what = self.queue[0].sae if place else "the program"
            return {"state": "loading", "detail": f"waiting for {what}", "seconds": seconds}
        words = f"{STAGES[one.stage]}{one.what and ' ' + one.what} ({one.sae})"
        step = {"step": one.stage + 1, "steps": len(STAGES)}
        return {"state": "loading", "detail": words, "seconds": seconds, **step}

    def _drop_if_changed(self, sae: str) -> None:
        if sae in self.held and self.held[sae].version != self._version(sae):
            del self.held[sae]
            self.gone[sae] = (f"{sae} was changed since it was loaded", True)

    def _version(self, sae: str) -> tuple | None:
        """Tells the files of an SAE from others of that name; None if it is not there."""
        try:
            folder = self.workspace.sae(sae)
            found = [(folder / n).stat() for n in ("cfg.json", "sae_weights.safetensors")]
        except (WorkbenchError, OSError):
            return None
        return tuple((at.st_ino, at.st_size, at.st_mtime_ns) for at in found)

    # ------------------------------------------------------------ the thread that loads

    def _load_all(self) -> None:
        while True:
            one = self.queue[0]
            try:
                reason = None if one.cancelled else self._load(one)
            except Exception as error:  # the thread must go on: others wait; the log has it all
                traceback.print_exc()
                reason = f"{type(error).__name__}: {error}"
            with self.lock:
                if one.cancelled:
                    self.gone[one.sae] = (f"loading {one.sae} was cancelled", False)
                elif reason is not None:
                    self.failed[one.sae] = reason
                self.queue.pop(0)
                if not self.queue:
                    return

    def _load(self, one: Loading) -> str | None:
        """Loads one SAE, with its model if that is another one; why it could not be, or None."""
        from sae.config import Refused

        one.stage = 0
        try:
            from interp.engine import engine_of, recorded
            from sae import formats

            version = self._version(one.sae)
            sae, made = recorded(self.workspace.sae(one.sae))
            key = (made["lm_weights"], made["dtype"])
            if one.cancelled:
                return None
            lm = self._language_model(one, key, made)
            if one.cancelled:
                return None
            one.stage, one.what = 2, ""
            formats.check_width(sae, lm.width(made["site"]), f"{made['site']} of {made['lm']}")
            engine = engine_of(sae.float().to(lm.device), lm, made)
        except (WorkbenchError, Refused) as error:
            return str(error)
        size = sum(p.numel() * p.element_size() for p in engine.sae.parameters())
        with self.lock:
            if one.cancelled:
                return None
            if version is None or version != self._version(one.sae):
                return f"{one.sae} was changed while it was loaded: load it again"
            self._change_model(key, lm, one.sae)
            reason = self._make_room(one, size)
            if reason is None:
                self.held[one.sae] = Held(engine, version, size)
            return reason

    def _language_model(self, one: Loading, key: tuple, made: dict) -> Any:
        import torch

        from data.lm import load_again

        if self.model is not None and self.model[0] == key and self.model[1] is not None:
            return self.model[1]
        one.stage, one.what = 1, made["lm"].rstrip("/").rsplit("/", 1)[-1]
        wanted = (made["lm"], made["lm_weights"], made["dtype"], self.device)
        try:
            return load_again(*wanted)
        except torch.OutOfMemoryError:  # of the GPU: not both at once, then
            if self.model is None:
                raise
        with self.lock:
            self._change_model(key, None, one.sae)
        gc.collect()
        torch.cuda.empty_cache()
        return load_again(*wanted)

    def _change_model(self, key: tuple, lm: Any, sae: str) -> None:
        if self.model is not None and self.model[0] != key:
            for name in self.held:
                self.gone[name] = (f"{name} gave way to {sae}, which reads another model", False)
            self.held.clear()
        self.model = (key, lm)

    def _make_room(self, one: Loading, size: int) -> str | None:
        """Drops the least recently used until `size` fits; what was asked for together stays."""
        free = self.bound - size - sum(held.size for held in self.held.values())
        for name in [n for n in self.held if n not in one.beside]:
            if free >= 0:
                break
            free += self.held.pop(name).size
            self.gone[name] = (f"{name} gave way to {one.sae}", True)
        if free < 0 and self.held:
            beside = ", ".join(self.held)
            return (
                f"{one.sae} does not fit into the worker's {self.bound / 2**30:.3g} GB beside "
                f"{beside}: choose fewer SAEs"
            )
        return None

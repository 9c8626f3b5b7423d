"""Every reply of a language-model service, kept, so that nothing is paid for twice.

In:  requests and replies as plain dicts. Out: the reply that was kept for a request.

    llm_cache/<key>.json   {"version", "key", "request", "reply", "time", "hash"}

`key` is the SHA-256 of the whole request: endpoint, model, messages, schema, settings, draw. `hash`
is that of all the rest of the file: one that is cut or altered counts as missing, which is told,
and the next reply takes its place. Threads and processes may share a folder. Of two replies to one
request the first stays, and `put` hands that one to both, so that all results rest on what is kept.

Only replies are kept, never failures, and no secrets: none is part of a request. A kill loses
nothing that `put` has written. It does not wait for the disk (a disk may take longer than the
service does), so a power cut can cost the last half minute's replies; they are then asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from data.errors import StoreError, WorkspaceError

VERSION = 1
KEY = re.compile(r"[0-9a-f]{64}")
PART = re.compile(r"\.[0-9a-f]{64}\.part-\d+-\d+")
OLD_PART_S = 3600.0  # a write takes milliseconds: what is older was left by a killed writer


@dataclass(frozen=True)
class CacheSize:
    """How much there is."""

    replies: int
    bytes: int


def key_of(request: Mapping) -> str:
    """The name a request's reply is kept under: SHA-256 of the request as canonical JSON.

    Names are sorted, except inside `schema`: a model writes a schema's fields in their order.
    Raises ValueError for what JSON cannot say.
    """
    if "schema" in request:
        request = {**request, "schema": json.dumps(request["schema"], allow_nan=False)}
    return _sha256(_canonical(request, allow_nan=False))


class LlmCache:
    """The replies in one folder. Holds no handle; safe between threads and processes.

    tell: gets a sentence for each damaged file that is met.
    """

    def __init__(self, folder: str | Path, tell: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.tell = Path(folder), tell
        self._cleared = False

    def holds(self, key: str) -> bool:
        """Whether there is a file for it; it is not read."""
        return self._path(key).is_file()

    def get(self, key: str) -> dict | None:
        """What is kept under a key, whole; None if nothing is, or nothing sound.

        Raises StoreError where the file is there and may not be read.
        """
        path = self._path(key)
        try:
            entry = _sound(path.read_bytes(), key)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(
                f"{path} cannot be read ({error.strerror}): make the folder readable, or name "
                "another workspace"
            ) from None
        if entry is None:
            self.tell(f"{path} is damaged: its reply will be asked for again")
        return entry

    def put(self, request: Mapping, reply: Mapping, key: str | None = None) -> dict:
        """Keeps a reply; what is kept under its key afterwards, which may be an earlier reply.

        key: that of the request, where it is known. Raises WorkspaceError where it cannot be
        written; the folder is then as it was.
        """
        key = key_of(request) if key is None else key
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = {"version": VERSION, "key": key, "request": dict(request),
                 "reply": dict(reply), "time": now}  # fmt: skip
        entry["hash"] = _sha256(_canonical(entry))
        path = self._path(key)
        part = path.with_name(f".{key}.part-{os.getpid()}-{threading.get_ident()}")
        standing = None
        with self._told():
            try:
                self._write(part, json.dumps(entry) + "\n")
                try:
                    os.link(part, path)  # unlike a rename it fails where the name is taken
                except OSError:  # it is, or this file system has no links
                    standing = self._standing(path, key)
                    if standing is None:
                        os.replace(part, path)
            finally:
                with suppress(OSError):
                    part.unlink()
        return standing or entry

    def check_writable(self) -> None:
        """WorkspaceError if nothing can be kept: to be asked before anything is paid for."""
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._cleared:
                self._clear_left_overs()
            self._cleared = True  # once: the folder may hold a hundred thousand files
            probe = self.folder / f".{'0' * 64}.part-{os.getpid()}-{threading.get_ident()}"
            try:
                probe.write_bytes(bytes(4096))
            finally:
                probe.unlink(missing_ok=True)

    def keys(self) -> list[str]:
        """All keys, in order."""
        return sorted(path.stem for path in self._paths())

    def entries(self) -> Iterator[dict]:
        """What is kept, the newest first, as `get` gives it; damaged files are told of."""
        dated = []
        for path in self._paths():
            with suppress(FileNotFoundError):  # removed meanwhile
                dated.append((-path.stat().st_mtime_ns, path.stem))
        for _, key in sorted(dated):
            entry = self.get(key)
            if entry is not None:
                yield entry

    def size(self) -> CacheSize:
        replies = total = 0
        for path in self._paths():
            with suppress(FileNotFoundError):
                total += path.stat().st_size
                replies += 1
        return CacheSize(replies, total)

    def remove(self, keys: Iterable[str]) -> int:
        """Forgets replies, so that they are asked for again; how many there were."""
        gone = 0
        with self._told():
            for key in keys:
                with suppress(FileNotFoundError):
                    self._path(key).unlink()
                    gone += 1
        return gone

    # ------------------------------------------------------------ inside

    def _path(self, key: str) -> Path:
        if KEY.fullmatch(key) is None:
            raise WorkspaceError(f"{key!r:.80} is no key of a reply: give 64 hexadecimal digits")
        return self.folder / f"{key}.json"

    def _paths(self) -> list[Path]:
        found = self.folder.glob("*.json") if self.folder.is_dir() else ()
        return [path for path in found if KEY.fullmatch(path.stem)]

    def _standing(self, path: Path, key: str) -> dict | None:
        try:
            return _sound(path.read_bytes(), key)
        except OSError:  # missing, or to be replaced as one that is damaged
            return None

    def _clear_left_overs(self) -> None:
        for path in self.folder.glob(".*.part-*"):
            with suppress(FileNotFoundError):
                old = time.time() - path.stat().st_mtime > OLD_PART_S
                if old and PART.fullmatch(path.name):
                    path.unlink()

    def _write(self, part: Path, text: str) -> None:
        try:
            part.write_text(text, "ascii")
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(text, "ascii")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WorkspaceError(
                f"{self.folder} cannot be written ({error.strerror}): free some space, or choose a "
                "workspace you may write; the replies kept so far are untouched"
            ) from None


def _sound(raw: bytes, key: str) -> dict | None:
    """A file's content if it is what was written under that key; else None."""
    try:
        entry = json.loads(raw)
        kept = {name: entry[name] for name in ("version", "key", "request", "reply", "time")}
        sound = (
            entry["hash"] == _sha256(_canonical(kept))
            and kept["version"] == VERSION
            and key == kept["key"] == key_of(kept["request"])
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return entry if sound else None


def _canonical(value: Mapping, allow_nan: bool = True) -> str:
    # ASCII, so that a text with half a surrogate pair in it can be kept too. Python's reader takes
    # NaN for a number, so a reply may have brought one.
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=allow_nan
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

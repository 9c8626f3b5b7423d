"""Append-only event files: the source of truth for what people write.

In:  a path and events (dicts with kind, who, time and whatever else JSON can say).
Out: one line an event, on the disk before `append` returns; the same events read back in order.

    {"prev":"<64 hex>","event":{...},"hash":"<64 hex>"}

`hash` is the SHA-256 of the line's bytes before `,"hash":"`, and `prev` the hash of the line before
(the genesis in the first), so that no line can be changed, dropped or moved without breaking the
chain. A cut at the very end cannot be seen from within: who must rule that out keeps the last hash
elsewhere.

Any number of threads and processes append at once, under a lock on the file. What a killed writer
left of its last line (a line without an end) was never acknowledged: readers pass over it, and the
next append keeps it aside, says so in an event of its own (kind `repaired`) and goes on. A whole
line that is not what was written is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.errors import StoreError, WorkbenchError

GENESIS = "0" * 64
REPAIRED = "repaired"  # kind of the event that names the remains of a torn line
REQUIRED = ("kind", "who", "time")

PREV, EVENT, HASH, END = b'{"prev":"', b'","event":', b',"hash":"', b'"}\n'
TAIL = len(HASH) + 64 + len(END)
HEAD = len(PREV) + 64 + len(EVENT)


@dataclass(frozen=True)
class Position:
    """The end of a line: where a reader has come to."""

    offset: int  # bytes up to there
    line: int  # lines up to there, so also the number of the line that ends there
    hash: str  # of that line; the genesis at the start


@dataclass(frozen=True)
class Entry:
    """One event and the number of its line, counted from 1."""

    line: int
    event: dict


class Journal:
    """One append-only file. Holds no handle on it; safe between threads.

    genesis: 64 hex digits that the first line follows on, such as the hash of a registration.
    """

    def __init__(self, path: str | Path, genesis: str = GENESIS) -> None:
        if re.fullmatch(r"[0-9a-f]{64}", genesis) is None:
            raise WorkbenchError(f"genesis {genesis!r}: give 64 hexadecimal digits")
        self.path = Path(path)
        self.start = Position(0, 0, genesis)
        self._verified = self.start  # everything up to there was found in order
        self._file: tuple[int, int] | None = None  # device and inode of the file that was verified
        self._mutex = threading.Lock()

    def append(self, event: Mapping) -> Position:
        """Writes one event; it is on the disk when this returns. The position is that of its line.

        Raises WorkbenchError for what is no event, StoreError where the file cannot be written or
        an earlier line is damaged; in both cases nothing is added.
        """
        written = _encoded(event)
        with self._mutex, self._locked(os.O_RDWR | os.O_CREAT | os.O_APPEND, fcntl.LOCK_EX) as file:
            size = os.fstat(file).st_size
            at = self._advance(file, size)
            lines, position = b"", at
            if size > at.offset:
                repaired = self._set_aside(file, at.offset, size, event["time"])
                lines, position = _line(_encoded(repaired), position)
            line, position = _line(written, position)
            self._write(file, lines + line, at.offset)
            if at.offset == 0:
                _sync_folder(self.path.parent)
            self._verified = position
            return position

    def read(self, after: Position | None = None) -> tuple[list[Entry], Position]:
        """The events after a position (default: all), and the position of the last one.

        Raises StoreError, naming the line, where the chain is broken between the two, or where the
        line of `after` is no longer there.
        """
        after = self.start if after is None else after
        at, entries = after, []
        if not self.holds(after):
            raise self._replaced(after)
        try:
            with self._locked(os.O_RDONLY, fcntl.LOCK_SH) as file:
                size = os.fstat(file).st_size  # whole lines up to here, but for a torn last one
                fcntl.flock(file, fcntl.LOCK_UN)
                for event, at in self._lines(file, after, size):
                    entries.append(Entry(at.line, json.loads(event)))
        except FileNotFoundError:
            pass
        return entries, at

    def verify(self) -> Position:
        """Reads every line; the position of the last one. Raises StoreError as `read` does."""
        with self._mutex:
            self._verified, self._file = self.start, None
            try:
                with self._locked(os.O_RDONLY, fcntl.LOCK_SH) as file:
                    return self._advance(file, os.fstat(file).st_size)
            except FileNotFoundError:
                return self.start

    def holds(self, position: Position) -> bool:
        """Whether the line with that hash ends there: whether a reader may go on from there."""
        if position.offset == 0:
            return position == self.start
        try:
            with open(self.path, "rb") as file:
                file.seek(max(position.offset - TAIL, 0))
                tail = file.read(TAIL)
        except FileNotFoundError:
            return False
        return tail == HASH + position.hash.encode() + END

    def changed_since(self, position: Position) -> bool:
        """Whether there may be lines after `position`; asks the file system, reads nothing."""
        try:
            return os.stat(self.path).st_size != position.offset
        except FileNotFoundError:
            return position.offset != 0

    # ------------------------------------------------------------ inside

    @contextmanager
    def _locked(self, flags: int, lock: int) -> Iterator[int]:
        """A handle of its own on the file, locked: locks of one handle are no bar to each other."""
        while True:
            try:
                file = os.open(self.path, flags | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                if not flags & os.O_CREAT:
                    raise
                raise StoreError(f"{self.path} has no folder: make it first") from None
            except OSError as error:
                raise StoreError(f"{self.path} cannot be opened ({error.strerror})") from None
            try:
                fcntl.flock(file, lock)
                if _is_at(file, self.path):  # else it was replaced while we waited
                    yield file
                    return
            finally:
                # Said aloud: a child forked in between still holds the handle, and so the lock.
                fcntl.flock(file, fcntl.LOCK_UN)
                os.close(file)

    def _advance(self, file: int, size: int) -> Position:
        """Verifies what was added since the last time; the end of the last whole line."""
        known, found = self._verified, os.fstat(file)
        identity = (found.st_dev, found.st_ino)
        same = identity == self._file and size >= known.offset
        start = known if same else self.start
        at, passed = start, start == known
        for _, at in self._lines(file, start, size):
            passed = passed or at == known
        if not passed:
            raise self._replaced(known)
        self._verified, self._file = at, identity
        return at

    def _lines(self, file: int, at: Position, size: int) -> Iterator[tuple[bytes, Position]]:
        """(event as JSON, its position) of each whole line between `at` and `size`."""
        with open(file, "rb", closefd=False) as stream:
            stream.seek(at.offset)
            for line in stream:
                end = at.offset + len(line)
                if end > size or not line.endswith(b"\n"):
                    return
                hash = _hash_of(line)
                if hash is None:
                    raise self._damaged(at.line + 1, "it is not what was written")
                if line[len(PREV) : len(PREV) + 64] != at.hash.encode():
                    raise self._damaged(at.line + 1, "it does not follow the line before")
                at = Position(end, at.line + 1, hash)
                yield line[HEAD:-TAIL], at

    def _damaged(self, line: int, what: str) -> StoreError:
        return StoreError(
            f"{self.path} is damaged in line {line}: {what}; put back a copy of the file, or keep "
            f"its first {line - 1} lines"
        )

    def _replaced(self, known: Position) -> StoreError:
        return StoreError(
            f"{self.path} was cut or replaced while it was in use: line {known.line} is no longer "
            "the one that was read; put the file back, or start the program again"
        )

    def _set_aside(self, file: int, start: int, end: int, time: str) -> dict:
        """Moves the torn line to a file beside the journal; the event that tells of it."""
        torn = os.pread(file, end - start, start)
        number, kept = 0, None
        while kept is None:
            number += 1
            name = f"{self.path.name}.torn-{start}" + (f"-{number}" if number > 1 else "")
            try:
                kept = open(self.path.with_name(name), "xb")
            except FileExistsError:  # torn at the same place before
                pass
        with kept:
            kept.write(torn)
            kept.flush()
            os.fsync(kept.fileno())
        _sync_folder(self.path.parent)
        os.ftruncate(file, start)
        about = {"kept": name, "bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}
        return {"kind": REPAIRED, "who": "journal", "time": time, **about}

    def _write(self, file: int, lines: bytes, size: int) -> None:
        """All of it or nothing; StoreError for a full disk and the like."""
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        except OSError as error:
            try:
                os.ftruncate(file, size)
            except OSError:
                pass  # then the next append finds a torn line
            raise StoreError(
                f"{self.path} cannot be written ({error.strerror}): nothing was saved; make room "
                "or mend the disk, and try again"
            ) from None


def _encoded(event: Mapping) -> bytes:
    """The event as JSON on one line. Raises WorkbenchError."""
    for name in REQUIRED:
        if not isinstance(event.get(name), str) or not event[name]:
            raise WorkbenchError(
                f"an event needs {name!r}, a text that is not empty: {event!r:.120}"
            )
    try:
        text = json.dumps(dict(event), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:  # a lone surrogate is a ValueError
        raise WorkbenchError(f"an event must be JSON ({error}): {event['kind']!r}") from None


def _line(event: bytes, after: Position) -> tuple[bytes, Position]:
    body = PREV + after.hash.encode() + EVENT + event
    hash = hashlib.sha256(body).hexdigest()
    line = body + HASH + hash.encode() + END
    return line, Position(after.offset + len(line), after.line + 1, hash)


def _hash_of(line: bytes) -> str | None:
    """The hash of a line that is as it was written; None for any other."""
    body, tail = line[:-TAIL], line[-TAIL:]
    hash = hashlib.sha256(body).hexdigest()
    whole = body.startswith(PREV) and body[HEAD - len(EVENT) : HEAD] == EVENT
    return hash if whole and tail == HASH + hash.encode() + END else None


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""lab.duckdb: the index of the journal lab.jsonl, kept up with it.

In:  the process's `Root`, the path of the journal, the path of the index.
Out: rows of queries over the tables of schema.LAB. Before each query the index takes up what the
     journal has got since, whoever wrote it.

The journal is the truth; the index is made again when it is missing, damaged, of another schema or
at odds with the journal. Where the file cannot be had (another app holds it, no room), the index is
kept in memory instead, so nobody is kept from reading or writing.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb

from data import schema
from data.journal import Entry, Journal, Position
from data.lab_rows_store import take
from data.schema import LAB, LAB_VIEWS, Root

# Another app, or another lab of this process, has the file.
BUSY = re.compile("Could not set lock|Unique file handle conflict|already attached")


class LabIndex:
    """The lab as tables. Safe between threads; one for each journal and process is enough.

    `lock` is held while the journal and the tables change: whoever must read and then write without
    another thread in between takes it around both.
    """

    def __init__(self, root: Root, journal: str | Path, index: str | Path | None) -> None:
        """index: the path of lab.duckdb; None: in memory, as commands want it, since an app may
        hold the file. Raises StoreError for a damaged journal."""
        self._root, self._path = root, Path(index) if index is not None else None
        self._journal = Journal(journal)
        self.lock = threading.RLock()
        self._memory: str | None = None  # alias of the index kept in memory
        self._journal.verify()
        self._alias, self._at = self._open() or self._in_memory()
        self._catch_up()

    def view(self) -> str:
        """The name of the table `mark` for this process's `Root`, after catching up."""
        self._refresh()
        return f"{self._alias}.mark"

    def write(self, event: dict) -> Position:
        """Appends an event to the journal, on the disk, and takes it up. Raises as Journal does."""
        with self.lock:
            position = self._journal.append(event)
            self._catch_up()
            return position

    def close(self) -> None:
        """Lets go of the file; the lab is of no use afterwards."""
        with self.lock:
            self._detach(self._alias)

    def ask(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query over the tables and views of schema.LAB."""
        self._refresh()
        alias = self._alias
        try:
            return self._run(alias, sql, values)
        except duckdb.Error as error:
            if alias == self._memory or not _broken(error):
                raise
        self._forsake(alias)
        return self._run(self._alias, sql, values)

    def _run(self, alias: str, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._root.cursor() as cursor:
            cursor.execute(f"USE {alias}")
            return cursor.execute(sql, values).fetchall()

    # ------------------------------------------------------------ keeping up with the journal

    def _refresh(self) -> None:
        if self._journal.changed_since(self._at):
            self._catch_up()

    def _catch_up(self) -> None:
        """Takes up what the journal has got since. Raises StoreError for a damaged journal."""
        with self.lock:
            entries, end = self._journal.read(self._at)
            if end == self._at:
                return
            try:
                self._take(self._alias, entries, self._at, end)
                self._at = end
            except duckdb.Error:  # no room, a damaged block: the change itself is in the journal
                if self._alias == self._memory:
                    raise
                self._forsake(self._alias)

    def _take(self, alias: str, entries: list[Entry], since: Position, end: Position) -> None:
        """Brings the tables from `since` to `end`, wholly or not at all."""
        with self._root.cursor() as cursor:
            cursor.execute(f"USE {alias}")
            cursor.execute("BEGIN")
            try:
                take(cursor, entries)
                cursor.execute(
                    "UPDATE position SET end_offset = ?, line = ?, hash = ?",
                    [end.offset, end.line, end.hash],
                )
                cursor.execute("COMMIT")
            except BaseException:
                with suppress(duckdb.Error):  # a failed commit has rolled back already
                    cursor.execute("ROLLBACK")
                raise

    # ------------------------------------------------------------ the file

    def _open(self) -> tuple[str, Position] | None:
        """(alias of the attached index, how far it has come); None if the file cannot be had."""
        for _ in range(2):
            existed = self._path is not None and self._path.exists()
            try:
                if self._path is None:
                    return None
                alias = self._attach(str(self._path))
                if not existed:
                    return alias, self._create(alias)
                at = self._come_to(alias)
                if at is not None and self._journal.holds(at):
                    return alias, at
                self._detach(alias)
            except duckdb.Error as error:
                if BUSY.search(str(error)):
                    return None
                at = None
            try:
                self._remove(keep=at is not None)
            except OSError:
                return None
        return None

    def _in_memory(self) -> tuple[str, Position]:
        self._memory = self._attach(":memory:")
        return self._memory, self._create(self._memory)

    def _forsake(self, alias: str) -> None:
        """Goes on in memory; the next start makes the file anew."""
        with self.lock:
            if self._alias != alias:  # another thread did
                return
            memory, start = self._in_memory()
            entries, end = self._journal.read()
            self._take(memory, entries, start, end)
            self._alias, self._at = memory, end
            with suppress(duckdb.Error, OSError):
                self._detach(alias)
                self._remove(keep=False)

    def _attach(self, path: str) -> str:
        alias = f"lab_{secrets.token_hex(4)}"
        quoted = path.replace("'", "''")
        with self._root.cursor() as cursor:
            cursor.execute(f"ATTACH '{quoted}' AS {alias}")
        return alias

    def _detach(self, alias: str) -> None:
        with self._root.cursor() as cursor:
            cursor.execute(f"DETACH {alias}")

    def _create(self, alias: str) -> Position:
        with self._root.cursor() as cursor:
            cursor.execute(f"USE {alias}")
            schema.create(cursor, LAB)
            for view in LAB_VIEWS:
                cursor.execute(view)
            start = self._journal.start
            values = [start.offset, start.line, start.hash]
            cursor.execute("INSERT INTO position VALUES (?, ?, ?)", values)
            schema.write_meta(cursor, {"journal": self._journal.path.name})
        return start

    def _come_to(self, alias: str) -> Position | None:
        """How far the index has come; None if it is damaged, unfinished or of another schema."""
        try:
            with self._root.cursor() as cursor:
                if schema.read_meta(cursor, alias).get("schema") != schema.SCHEMA:
                    return None
                for table in LAB:  # reads every block, whose checksums DuckDB compares
                    cursor.execute(f"SELECT bit_xor(hash(t)) FROM {alias}.{table} t").fetchall()
                row = cursor.execute(
                    f"SELECT end_offset, line, hash FROM {alias}.position"
                ).fetchone()
                return Position(*row) if row else None
        except duckdb.Error:
            return None

    def _remove(self, keep: bool) -> None:
        """Removes the index; one that knows of changes which the journal lacks is put aside."""
        if keep:
            aside = self._path.with_name(f"{self._path.name}.at-odds-{secrets.token_hex(4)}")
            self._path.replace(aside)
        self._path.unlink(missing_ok=True)
        self._path.with_name(f"{self._path.name}.wal").unlink(missing_ok=True)


def _broken(error: duckdb.Error) -> bool:
    """Whether the file is at fault, not the question."""
    at_fault = (duckdb.IOException, duckdb.FatalException, duckdb.InternalException)
    return isinstance(error, at_fault) or "orrupt" in str(error)

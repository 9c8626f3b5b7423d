"""The tables of every result store, and the one DuckDB instance a process reads them through.

In:  the path of a features.duckdb, results.duckdb or a file of extra/.
Out: `writing`, `create_features`, `create`, `load` for writers; for readers a `Root`, whose
     `reading(path)` yields a fresh cursor and the alias under which the file's tables stand.

DuckDB lets one process write a file, and then no other may even read it; so stores are written
under a temporary name and renamed (data/workspace.py), and are only ever attached READ_ONLY here.
A replaced file gets a new alias, made of its inode and modification time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from data.errors import StoreBusy, StoreError
from data.rowhash import OutOfOrder, hash_rows, in_order
from data.workspace import publish

SCHEMA = 4  # raise it with every change below; stores are rebuilt, never migrated
RESULTS_SCHEMA = 5  # of results.duckdb alone: what a judge was paid for outlives a new harvest
RESULTS_FILE = "results.duckdb"

META = "CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL)"  # value is JSON

# What a harvest writes and what people ask for. `doc` is stored as the two tables of DOCUMENTS.
FEATURES = {
    "token": "id INTEGER PRIMARY KEY, bytes BLOB NOT NULL, special BOOLEAN NOT NULL",
    "doc": """doc INTEGER PRIMARY KEY, name VARCHAR NOT NULL, split VARCHAR NOT NULL,
        "use" VARCHAR NOT NULL, min_hash UBIGINT NOT NULL, n_tokens INTEGER NOT NULL,
        ids INTEGER[] NOT NULL""",
    # Moments and quantiles are of the non-zero activations; NULL where there is nothing to measure.
    # hist_counts begins with bin hist_first of meta.hist_edges; empty bins at both ends are left
    # out. positions: fires between meta.position_edges.
    "feature": """feature INTEGER PRIMARY KEY, fires BIGINT NOT NULL, density DOUBLE NOT NULL,
        total DOUBLE NOT NULL, total_squares DOUBLE NOT NULL, mean DOUBLE, sd DOUBLE, skew DOUBLE,
        kurtosis DOUBLE, max FLOAT, q10 DOUBLE, q50 DOUBLE, q90 DOUBLE, q99 DOUBLE,
        quantile_error DOUBLE, theta FLOAT NOT NULL, first_doc INTEGER, last_doc INTEGER,
        peak_token INTEGER, peak_share DOUBLE, dead BOOLEAN NOT NULL, rare BOOLEAN NOT NULL,
        dense_1 BOOLEAN NOT NULL, dense_10 BOOLEAN NOT NULL, single_token BOOLEAN NOT NULL,
        position_bound BOOLEAN NOT NULL, outlier_bound BOOLEAN NOT NULL, outlier_share DOUBLE,
        top_logit INTEGER, hist_first SMALLINT NOT NULL, hist_counts BIGINT[] NOT NULL,
        pre_counts BIGINT[] NOT NULL, pre_unit FLOAT NOT NULL, positions BIGINT[] NOT NULL""",
    # What one unit of the feature adds to the logits; scaled: through the final norm's own scale.
    # No rows where the site does not write to the residual stream.
    "logit": """feature INTEGER NOT NULL, scaled BOOLEAN NOT NULL, top_ids INTEGER[] NOT NULL,
        top_logits FLOAT[] NOT NULL, bottom_ids INTEGER[] NOT NULL, bottom_logits FLOAT[] NOT NULL,
        sd FLOAT NOT NULL, skew FLOAT NOT NULL, kurtosis FLOAT NOT NULL, low FLOAT NOT NULL,
        high FLOAT NOT NULL, counts INTEGER[] NOT NULL""",
    # Bands of ranks among the fires, which `quantile` examples are samples of; four rows a feature
    # that fires. From low on, to the low of the band above.
    "band": """feature INTEGER NOT NULL, part VARCHAR NOT NULL, low DOUBLE NOT NULL,
        fires BIGINT NOT NULL""",
    # The context [start, start + length) of a document; peak and act_index count from start. Rows
    # are sorted by feature, so that zone maps find a feature's rows without an index. max and pre:
    # activation and pre-activation at the peak. inclusion: the probability with which the sampling
    # took it (1 for `top`, NULL for `near_miss`, which is no sample); copies: tokens of the corpus
    # with the same text around them that it stands for.
    "example": """feature INTEGER NOT NULL, kind VARCHAR NOT NULL, part VARCHAR NOT NULL,
        rank INTEGER NOT NULL, doc INTEGER NOT NULL, start INTEGER NOT NULL,
        length INTEGER NOT NULL, peak INTEGER NOT NULL, max FLOAT NOT NULL, pre FLOAT NOT NULL,
        inclusion DOUBLE, copies INTEGER NOT NULL, act_index USMALLINT[] NOT NULL,
        act_value FLOAT[] NOT NULL""",
}
# Token ids lie in pieces of at most PIECE, so that a page reads the few pieces it shows whatever
# the length of a document. Piece first_piece + i holds the tokens from i * PIECE on.
PIECE = 1_024
DOCUMENTS = {
    "document": """doc INTEGER PRIMARY KEY, name VARCHAR NOT NULL, split VARCHAR NOT NULL,
        "use" VARCHAR NOT NULL, min_hash UBIGINT NOT NULL, n_tokens INTEGER NOT NULL,
        first_piece INTEGER NOT NULL""",
    "text": "piece INTEGER PRIMARY KEY, doc INTEGER NOT NULL, ids INTEGER[] NOT NULL",
}
STORED = {n: c for n, c in (FEATURES | DOCUMENTS).items() if n != "doc"}
# extra/effects-<hash>.duckdb. Losses and KL in nats a token.
EFFECTS = {
    # One example ablated; status: ok | silent | not_scored. Positions count from start. first: the
    # first ablated one; peak: where peak_kl and the tokens raised and lowered are taken; scored:
    # those from first on that are scored, each with its delta_losses and kls. NULL: not measured.
    "example_effect": """feature INTEGER NOT NULL, kind VARCHAR NOT NULL, part VARCHAR NOT NULL,
        rank INTEGER NOT NULL, doc INTEGER NOT NULL, start INTEGER NOT NULL,
        status VARCHAR NOT NULL, first INTEGER, peak INTEGER, delta_loss DOUBLE, kl DOUBLE,
        peak_kl DOUBLE, attribution DOUBLE, random_kl DOUBLE, scored USMALLINT[] NOT NULL,
        delta_losses FLOAT[] NOT NULL, kls FLOAT[] NOT NULL, up_ids INTEGER[] NOT NULL,
        up_logits FLOAT[] NOT NULL, down_ids INTEGER[] NOT NULL, down_logits FLOAT[] NOT NULL""",
    # Means over a feature's n_examples that are ok; status: ok | silent | not_scored | no_examples.
    "feature_effect": """feature INTEGER PRIMARY KEY, status VARCHAR NOT NULL,
        n_examples INTEGER NOT NULL, delta_loss DOUBLE, kl DOUBLE, attribution DOUBLE,
        random_kl DOUBLE, exceeds DOUBLE""",
}
# extra/neighbours-<hash>.duckdb. The features nearest to each, of meta.sae itself or of meta.other.
# value: cosine (kind decoder, encoder), PMI in nats (coactivation) or Pearson's r (correlation).
# together: sampled tokens on which both fire; given_this: P(other | this), given_other: P(this |
# other); r of their activations over the sample. NULL without a sample, or where undefined.
NEIGHBOURS = {
    "neighbour": """feature INTEGER NOT NULL, kind VARCHAR NOT NULL, rank INTEGER NOT NULL,
        other INTEGER NOT NULL, value FLOAT NOT NULL, together BIGINT, given_this FLOAT,
        given_other FLOAT, r FLOAT""",
}
# extra/map-<hash>.duckdb. Places of decoder directions in a plane; features without one have none.
MAP = {"place": "feature INTEGER PRIMARY KEY, x DOUBLE NOT NULL, y DOUBLE NOT NULL"}
# autointerp/<run>/results.duckdb. status: ok | failed | not_run, of scores also constant (such a
# prediction has no correlation) and withheld (too much failed); value is NULL unless it is ok.
# arm: own, or a baseline judged on the same windows (lexical, shuffled, empty).
RESULTS = {
    "explanation": """feature INTEGER PRIMARY KEY, judge VARCHAR NOT NULL, text VARCHAR NOT NULL,
        payload VARCHAR NOT NULL, status VARCHAR NOT NULL, reason VARCHAR NOT NULL""",
    # Several explanations of which the first was chosen, by `value` on the calibrate split.
    "candidate": """feature INTEGER NOT NULL, place INTEGER NOT NULL, text VARCHAR NOT NULL,
        value DOUBLE, status VARCHAR NOT NULL, reason VARCHAR NOT NULL""",
    # The run's headline: `own` by its first method. n_ok of n items were answered, of `wanted`.
    "score": """feature INTEGER PRIMARY KEY, method VARCHAR NOT NULL, value DOUBLE, low DOUBLE,
        high DOUBLE, n_tokens INTEGER NOT NULL, n_documents INTEGER NOT NULL,
        status VARCHAR NOT NULL, reason VARCHAR NOT NULL, n_ok INTEGER, n INTEGER,
        wanted INTEGER""",
    # reasons: JSON, how many items failed why. details: JSON, further measures by name.
    "result": """feature INTEGER NOT NULL, method VARCHAR NOT NULL, arm VARCHAR NOT NULL,
        value DOUBLE, low DOUBLE, high DOUBLE, n_ok INTEGER NOT NULL, n INTEGER NOT NULL,
        wanted INTEGER NOT NULL, status VARCHAR NOT NULL, reason VARCHAR NOT NULL,
        reasons VARCHAR NOT NULL, details VARCHAR NOT NULL""",
    # Each window as it was judged: real activations, what was said, and in which replies.
    "asked": """feature INTEGER NOT NULL, method VARCHAR NOT NULL, arm VARCHAR NOT NULL,
        item INTEGER NOT NULL, stratum VARCHAR NOT NULL, doc INTEGER NOT NULL,
        start INTEGER NOT NULL, peak INTEGER NOT NULL, ids INTEGER[] NOT NULL,
        real FLOAT[] NOT NULL, said FLOAT[], status VARCHAR NOT NULL, reason VARCHAR NOT NULL,
        calls VARCHAR[] NOT NULL""",
}
KEYS = {
    "token": "id", "doc": "doc", "document": "doc", "text": "piece", "feature": "feature",
    "logit": "feature, scaled", "band": "feature, part", "example": "feature, kind, part, rank",
    "explanation": "feature", "score": "feature", "candidate": "feature, place",
    "result": "feature, method, arm", "asked": "feature, method, arm, item",
    "example_effect": "feature, kind, part, rank",
    "feature_effect": "feature", "neighbour": "feature, kind, rank", "place": "feature",
}  # fmt: skip

HASHED = 65_536  # rows hashed at once

# What each purpose may read. An explanation must never see a text its score is computed on.
USES = ("explain", "calibrate", "score")
VIEWS = [
    # Who asks for a few documents reads their pieces only; who does not ask for `ids` reads none.
    """CREATE VIEW doc AS SELECT document.* EXCLUDE (first_piece),
            coalesce(flatten(list(ids ORDER BY piece)), []) AS ids
        FROM document LEFT JOIN text USING (doc) GROUP BY ALL ORDER BY doc""",
    """CREATE VIEW example_any AS SELECT example.*, start + peak AS position,
        document.name AS document, document."use" FROM example JOIN document USING (doc)""",
    *[
        f"""CREATE VIEW example_{use} AS SELECT * FROM example_any WHERE "use" = '{use}'"""
        for use in USES
    ],
    # Firing tokens (active) and silent ones (random) together stand for the whole corpus: weights
    # sum to its tokens, but for chance.
    """CREATE VIEW token_sample AS SELECT feature, doc, position, max AS activation,
        copies / inclusion AS weight, "use" FROM example_any WHERE kind IN ('active', 'random')""",
]


def create_features(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the empty tables and views of features.duckdb."""
    create(con, STORED)
    for view in VIEWS:
        con.execute(view)


def create(con: duckdb.DuckDBPyConnection, tables: dict[str, str]) -> None:
    """Makes empty tables, and `meta`: STORED, RESULTS, EFFECTS, NEIGHBOURS or MAP."""
    con.execute(META)
    for table, columns in tables.items():
        con.execute(f"CREATE TABLE {table} ({columns})")


def load(
    con: duckdb.DuckDBPyConnection, tables: Mapping[str, pa.Table | Iterable[pa.Table]]
) -> None:
    """Inserts Arrow tables; rows one by one would take a hundred times as long.

    Each has exactly the columns of its name above, in any order. A table is sorted by its key; an
    iterable of tables is taken as it comes and must be in the order of the key already.
    """
    for name, given in tables.items():
        described = con.execute(f"SELECT * FROM {name} LIMIT 0").description
        columns = [column[0] for column in described]
        listed = ", ".join(f'"{column}"' for column in columns)
        whole = isinstance(given, pa.Table)
        order = f"ORDER BY {KEYS[name]}" if whole else ""
        for table in [given] if whole else given:
            assert sorted(table.column_names) == sorted(columns), (name, table.column_names)
            con.register("incoming", table)
            con.execute(f"INSERT INTO {name} SELECT {listed} FROM incoming {order}")
            con.unregister("incoming")


def content_hash(con: duckdb.DuckDBPyConnection, tables: Iterable[str] = STORED) -> str:
    """SHA-256 over all rows of `tables` in key order (data/rowhash.py)."""
    parts = []
    for table in tables:
        key = KEYS[table].split(", ")
        try:  # they lie in that order, and sorting takes memory and several times as long
            with _rows(con, table) as rows:
                digest = hash_rows(in_order(rows, key))
        except OutOfOrder:
            with _rows(con, f"{table} ORDER BY {KEYS[table]}") as rows:
                digest = hash_rows(rows)
        parts.append(f"{table} {digest}\n")
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _rows(con: duckdb.DuckDBPyConnection, source: str) -> pa.RecordBatchReader:
    return con.sql(f"SELECT * FROM {source}").to_arrow_reader(HASHED)


def write_meta(con: duckdb.DuckDBPyConnection, meta: dict, number: int = SCHEMA) -> None:
    """Fills `meta` with one JSON value a key, and the schema number."""
    rows = [[key, json.dumps(value)] for key, value in {**meta, "schema": number}.items()]
    con.executemany("INSERT INTO meta VALUES (?, ?)", rows)


def read_meta(cursor: duckdb.DuckDBPyConnection, alias: str) -> dict:
    """The meta table as a dict of parsed values."""
    rows = cursor.execute(f"SELECT key, value FROM {alias}.meta ORDER BY key").fetchall()
    return {key: json.loads(value) for key, value in rows}


def connect(
    path: str | Path = ":memory:",
    memory_limit: str = "1GB",
    threads: int = 2,
    temp_directory: str | Path | None = None,
) -> duckdb.DuckDBPyConnection:
    """One DuckDB instance with its limits set; it loads no extension and reads no Python variable.

    Spills to `temp_directory`: by default beside the file, or under the system's temporary folder.
    """
    if temp_directory is None:
        in_memory = str(path) == ":memory:"
        beside = Path(tempfile.gettempdir()) / f"duckdb-{os.getpid()}"
        temp_directory = beside if in_memory else f"{path}.tmp"
    config = {
        "memory_limit": memory_limit,
        "threads": threads,
        "temp_directory": str(temp_directory),
        "python_enable_replacements": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    con = duckdb.connect(str(path), config=config)
    con.execute("SET enable_progress_bar = false")  # commands show their own
    return con


@contextmanager
def writing(path: str | Path, memory_limit: str = "1GB") -> Iterator[duckdb.DuckDBPyConnection]:
    """Yields an empty file's connection; the file becomes `path` whole when the block has ended.

    StoreError if the disk is full or the folder may not be written; what was at `path` stays.
    """
    with publish(path) as part:
        try:
            con = connect(part, memory_limit)
            try:
                yield con
                con.execute("CHECKPOINT")
            finally:
                con.close()
        except duckdb.Error as error:
            told = str(error).splitlines()[0]
            if isinstance(error, duckdb.IOException) or "Could not write file" in told:
                raise StoreError(
                    f"{path} could not be written ({told}): free some space, or choose a "
                    "workspace you may write; what was there before is untouched"
                ) from None
            raise


def open_root(
    memory_limit: str = "1GB", threads: int = 2, temp_directory: str | Path | None = None
) -> Root:
    """The in-memory instance of this process; make one and pass it around."""
    return Root(connect(":memory:", memory_limit, threads, temp_directory))


class Root:
    """One in-memory DuckDB instance to which stores are attached READ_ONLY. Safe between threads.

    Each query runs on its own cursor: a connection that two threads share hands one of them the
    other's rows.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection):
        self._con = con
        self._lock = threading.RLock()
        self._current: dict[Path, str] = {}  # path -> alias of the file that is there now
        self._readers: Counter[str] = Counter()  # alias -> `reading` blocks that use it
        self._memory: dict[str, dict[str, Any]] = {}  # alias -> what `remember` keeps of it

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A fresh cursor; one for each query."""
        with self._lock:
            return self._con.cursor()

    def attach(self, path: str | Path) -> str:
        """Attaches the store at `path` READ_ONLY, if it is not yet; returns its alias.

        The alias stays good until the file at `path` is replaced and attached anew; for several
        queries on one snapshot use `reading`. Raises StoreError if the file is missing, is no
        store, has another schema, or lies beside another SAE than it was made from; StoreBusy if
        another process is writing it.
        """
        path = Path(path).resolve()
        with self._lock:
            alias = _alias(path)
            if self._current.get(path) == alias:
                return alias
            while alias not in self._memory:
                self._attach(path, alias)
                if _alias(path) == alias:
                    self._memory[alias] = {}
                else:  # replaced in between: attach the newer one
                    self._detach(alias)
                    alias = _alias(path)
            self._current = {p: a for p, a in self._current.items() if p.exists()}
            self._current[path] = alias
            self._drop_unused()
            return alias

    @contextmanager
    def reading(self, *paths: str | Path) -> Iterator[tuple[Any, ...]]:
        """Yields (cursor, alias of each path); the aliases stay attached for the whole block.

        A damaged file that a query in the block comes upon is raised as StoreError.
        """
        with self._lock:
            aliases = [self.attach(path) for path in paths]
            self._readers.update(aliases)
        cursor = self.cursor()
        try:
            yield (cursor, *aliases)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            # What DuckDB finds while Arrow reads from it comes as Arrow's error, with its words.
            told = isinstance(error, duckdb.IOException) or "IO Error:" in str(error)
            if told or "orrupt" in str(error):
                raise StoreError(_damaged(" or ".join(map(str, paths)), error)) from None
            raise
        finally:
            cursor.close()
            with self._lock:
                self._readers.subtract(aliases)
                self._drop_unused()

    def remember(self, alias: str, key: str, make: Callable[[], Any]) -> Any:
        """`make()`, computed once for as long as `alias` stays attached."""
        with self._lock:
            kept = self._memory.get(alias)
        if kept is None:
            return make()
        if key not in kept:
            kept[key] = make()
        return kept[key]

    def close(self) -> None:
        with self._lock:
            self._con.close()

    def _attach(self, path: Path, alias: str) -> None:
        cursor = self._con.cursor()
        quoted = str(path).replace("'", "''")
        try:
            cursor.execute(f"ATTACH '{quoted}' AS {alias} (READ_ONLY)")
        except duckdb.Error as error:
            raise _attach_error(path, error) from None
        try:
            meta = read_meta(cursor, alias)
            _check_schema(path, meta.get("schema"))
            _check_weights(path, meta.get("weights_sha256"))
        except StoreError:
            self._detach(alias)
            raise
        except (duckdb.Error, ValueError) as error:  # also a meta that is no JSON
            self._detach(alias)
            raise StoreError(_damaged(path, error)) from None
        finally:
            cursor.close()

    def _detach(self, alias: str) -> None:
        self._con.cursor().execute(f"DETACH {alias}")

    def _drop_unused(self) -> None:
        """Detaches every store whose file was replaced and which no block reads any more."""
        current = set(self._current.values())
        for alias in [a for a in self._memory if a not in current and self._readers[a] <= 0]:
            self._detach(alias)
            del self._memory[alias], self._readers[alias]


def _alias(path: Path) -> str:
    try:
        at = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"no store at {path}: make it first (harvest, explain or score)") from None
    return f"store_{at.st_dev}_{at.st_ino}_{at.st_mtime_ns}"


def _check_schema(path: Path, schema: Any) -> None:
    if not isinstance(schema, int):
        raise StoreError(f"{path} is no store of this program: it has no schema number")
    known = RESULTS_SCHEMA if path.name == RESULTS_FILE else SCHEMA
    if schema > known:
        raise StoreError(
            f"{path} has schema {schema}, this program knows up to {known}: "
            "update the program, or make the store again"
        )
    if schema < known:
        raise StoreError(
            f"{path} has schema {schema}, this program reads {known}: make the store again"
        )


def _check_weights(path: Path, made_from: Any) -> None:
    """StoreError if `path` lies in the folder of another SAE than the one it was made from."""
    folder = path.parent.parent if path.parent.name == "extra" else path.parent
    weights = folder / "sae_weights.safetensors"
    if made_from is None or not weights.is_file():
        return
    at = weights.stat()
    there = _sha256(weights, at.st_ino, at.st_size, at.st_mtime_ns)
    if there != made_from:
        raise StoreError(
            f"{path} was made from other weights ({str(made_from)[:12]}) than those of the SAE "
            f"beside it ({there[:12]}): make it again"
        )


@lru_cache(maxsize=64)
def _sha256(path: Path, *version: int) -> str:
    """Of a file as it is while its inode, size and time stay: large ones take a second."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _attach_error(path: Path, error: duckdb.Error) -> StoreError:
    """The error of the tree that an error of ATTACH stands for."""
    text = str(error)
    holder = re.search(r"lock is held in (?P<program>.*?) \(PID (?P<pid>\d+)\)", text)
    if holder is not None:
        command = _command_of(int(holder["pid"])) or holder["program"]
        return StoreBusy(
            f"{path} is held by process {holder['pid']} ({command}): wait until it ends, or end it"
        )
    if "Could not set lock" in text:
        return StoreBusy(f"{path} is held by another process: wait until it ends, or end it")
    return StoreError(_damaged(path, error))


def _damaged(path: str | Path, error: Exception) -> str:
    first = str(error).splitlines()[0]
    return f"{path} cannot be read as a DuckDB {duckdb.__version__} store ({first}): make it again"


def _command_of(pid: int) -> str:
    """The command line of a process on this machine, "" if it cannot be told."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().split()
        return textwrap.shorten(" ".join(words), 100, placeholder=" ...")
    except (OSError, UnicodeDecodeError):
        return ""


# lab.duckdb: the index of lab.jsonl, which the app writes (data/lab_store.py). What people wrote is
# a set of registers; the key of one is (kind, sae, feature, name), its value that of the last line
# that set it and was not undone, NULL for "not there (any more)". Kinds and their names and values:
# bookmark; tag (the tag); note and label (value: the text); list (its id; value: its name); entry
# (a list's id; value: its place, ordered as text); filter (its name; value: JSON).
LAB = {
    # item: number in its line; action, writer, written: kind, person and time of the line; who and
    # time: of the words, which for imported ones are others; shown: False for what an import found
    # older than what was there.
    "change": """line INTEGER NOT NULL, item INTEGER NOT NULL, action VARCHAR NOT NULL,
        writer VARCHAR NOT NULL, written VARCHAR NOT NULL, kind VARCHAR NOT NULL, sae VARCHAR,
        feature INTEGER, name VARCHAR, value VARCHAR, who VARCHAR NOT NULL, time VARCHAR NOT NULL,
        shown BOOLEAN NOT NULL""",
    "undone": "line INTEGER NOT NULL, by_line INTEGER NOT NULL",
    "known_sae": "sae VARCHAR NOT NULL, weights VARCHAR NOT NULL",  # last weights under that name
    # Registers of a feature side by side; only features of which something is written have a row.
    # changed: time of the newest.
    "mark": """sae VARCHAR NOT NULL, feature INTEGER NOT NULL, bookmarked BOOLEAN NOT NULL,
        tags VARCHAR[] NOT NULL, note VARCHAR, label VARCHAR, changed VARCHAR NOT NULL""",
    "position": "end_offset BIGINT NOT NULL, line INTEGER NOT NULL, hash VARCHAR NOT NULL",
}
LAB_VIEWS = [
    "CREATE VIEW live AS SELECT * FROM change WHERE line NOT IN (SELECT line FROM undone)",
    """CREATE VIEW register AS SELECT * FROM live QUALIFY row_number() OVER (
        PARTITION BY kind, sae, feature, name ORDER BY shown DESC, line DESC, item DESC) = 1""",
]

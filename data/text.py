"""Documents from anywhere, and the split each one belongs to.

In:  a source: `python:stdlib`, `python:installed`, a .txt/.md/.py/.jsonl/.parquet file, a folder of
     them, or `hf:NAME[:SPLIT]` (a Hugging Face data set, streamed).
Out: `Document`s in a fixed order; for each a min-hash, from which its splits follow.

The split is a property of the text, not of its place: the smallest hash of its 8-word shingles
decides, so near-duplicates fall on the same side (own; the min-hash is Broder 1997).
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data import hub
from data.errors import TextError
from data.records import Document

SHINGLE_WORDS = 8
HELDOUT_SHARE = 0.10
TEXT_SUFFIXES = (".txt", ".md", ".py", ".jsonl", ".parquet")

# Folders of the standard library that hold tests, demos, and tables rather than code to read.
STDLIB_LEFT_OUT = {
    "test", "tests", "idle_test", "turtledemo", "site-packages", "dist-packages", "__pycache__",
    "encodings", "pydoc_data", "lib2to3", "__phello__",
}  # fmt: skip
PACKAGES_LEFT_OUT = {"__pycache__", "test", "tests", "testing", "_vendor", "vendor"}
LARGEST_SOURCE_FILE = 400_000  # bytes; larger ones are generated tables


def documents(source: str, field: str = "text") -> Iterator[Document]:
    """All documents of `source`, in a fixed order; `field` is the text column of JSONL and Parquet.

    Raises TextError when the source does not exist, has no such field, or holds no text.
    """
    found = False
    try:
        for document in _read(source, field):
            if document.text.strip():
                found = True
                yield Document(encodable(document.name), encodable(document.text))
    except OSError as error:
        raise TextError(
            f"{error.filename or source!r} cannot be read: {error.strerror or error}; "
            "name another --text"
        ) from None
    if not found:
        raise TextError(f"no text in {source!r}: every document is empty; name another --text")


def encodable(text: str) -> str:
    """Lone surrogates, which JSON and file names can hold and UTF-8 cannot, become U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _read(source: str, field: str) -> Iterator[Document]:
    if source == "python:stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        return _python_files(root, STDLIB_LEFT_OUT)
    if source == "python:installed":
        return _python_files(Path(sysconfig.get_path("purelib")), PACKAGES_LEFT_OUT)
    if source.startswith("hf:"):
        return _hub_dataset(source, field)
    path = Path(source).expanduser()
    if source.strip() and path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in TEXT_SUFFIXES and p.is_file())
        if not files:
            raise TextError(f"no text files in {source!r}: looked for {', '.join(TEXT_SUFFIXES)}")
        return (document for file in files for document in _file(file, field, path))
    if path.is_file():
        return _file(path, field, path.parent)
    raise TextError(
        f"no text at {source!r}: give a file or folder ({', '.join(TEXT_SUFFIXES)}), "
        "hf:NAME[:SPLIT], python:stdlib or python:installed"
    )


def _file(path: Path, field: str, root: Path) -> Iterator[Document]:
    name = path.relative_to(root).as_posix()
    if path.suffix == ".jsonl":
        with path.open("rb") as lines:
            for number, line in enumerate(lines):
                if line.strip():
                    row = _json_line(line, f"{path} line {number + 1}")
                    yield Document(f"{name}:{number}", _field(row, field, path))
    elif path.suffix == ".parquet":
        for number, text in enumerate(_parquet_column(path, field)):
            yield Document(f"{name}:{number}", text or "")
    else:
        yield Document(name, path.read_text(encoding="utf-8", errors="replace"))


def _json_line(line: bytes, where: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise TextError(f"{where} is not JSON: {error.msg}") from None
    except UnicodeDecodeError:
        raise TextError(f"{where} is not UTF-8: convert the file first") from None


def _parquet_column(path: Path, field: str) -> Iterator[str | None]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise TextError(f"{path} cannot be read as Parquet: {reason}") from None
    if field not in table.schema_arrow.names:
        names = ", ".join(table.schema_arrow.names)
        raise TextError(f"{path} has no column {field!r}: pass --text-field, one of {names}")
    kind = table.schema_arrow.field(field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise TextError(f"{path}: column {field!r} holds {kind}, not text: pass --text-field")
    for batch in table.iter_batches(columns=[field]):
        yield from batch.column(0).to_pylist()


def _field(row: object, field: str, path: Path) -> str:
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        seen = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise TextError(f"{path} has no text field {field!r}: pass --text-field, one of {seen}")
    return row[field]


def _python_files(root: Path, left_out: set[str]) -> Iterator[Document]:
    """Python sources below `root`, in the order of a hash of their path.

    Hash order makes any first part of the stream a fair sample of the whole.
    """

    def wanted(path: Path) -> bool:
        parts = set(path.relative_to(root).parts)
        generated = any(part.startswith(("config-", "_sysconfigdata")) for part in parts)
        return not (parts & left_out) and not generated and path.is_file()

    names = [path.relative_to(root).as_posix() for path in root.rglob("*.py") if wanted(path)]
    names.sort(key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())
    for name in names:
        content = (root / name).read_bytes()
        if len(content) <= LARGEST_SOURCE_FILE:
            yield Document(name, content.decode("utf-8", errors="replace"))


def _hub_dataset(source: str, field: str) -> Iterator[Document]:
    import datasets

    _, name, *split = source.split(":")
    code, reason = hub.status(f"datasets/{name}")
    if code is None:
        raise TextError(
            f"data set {name!r}: the hub cannot be reached ({reason}): give a file or a folder, or "
            "try again with a network"
        )
    try:
        rows = datasets.load_dataset(name, split=(split or ["train"])[0], streaming=True)
        for number, row in enumerate(rows):
            yield Document(f"{name}:{number}", _field(row, field, Path(name)))
    except OSError as error:  # no network, no such data set
        raise TextError(f"data set {name!r} cannot be read: {error}".splitlines()[0]) from None
    except ValueError as error:  # unknown split
        if isinstance(error, TextError):
            raise
        raise TextError(f"data set {name!r} cannot be read: {error}".splitlines()[0]) from None


# ---------------------------------------------------------------- hashes and splits


def mix64(value: np.ndarray | int) -> np.ndarray:
    """SplitMix64 finaliser: a bijection on 64-bit words whose output bits look independent.

    Source: Steele, Lea and Flood 2014 (constants of Stafford's variant 13). uint64 in and out.
    """
    z = np.asarray(value, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def shingle_hashes(text: str) -> np.ndarray:
    """64-bit hashes of the text's 8-word shingles [n_words - 7]; a shorter text is one shingle."""
    words = text.split()
    hashes = np.fromiter(
        (
            int.from_bytes(hashlib.blake2b(w.encode(), digest_size=8).digest(), "little")
            for w in words
        ),
        dtype=np.uint64,
        count=len(words),
    )
    width = max(min(SHINGLE_WORDS, len(words)), 1)
    count = max(len(words) - width + 1, 1)
    combined = np.zeros(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(min(width, len(words))):
            combined = combined * np.uint64(0x100000001B3) + hashes[offset : offset + count]
    return mix64(combined)


def min_hash(text: str) -> int:
    """The smallest shingle hash: equal for two texts with probability their Jaccard similarity."""
    return int(shingle_hashes(text).min())


def _uniform(minimum: int, salt: int) -> float:
    return float(mix64(np.uint64(minimum) ^ mix64(salt))) / 2.0**64


def split_of(minimum: int) -> str:
    """`train` or `heldout` (10 %); nothing is ever trained on `heldout`."""
    return "heldout" if _uniform(minimum, 1) < HELDOUT_SHARE else "train"


def use_of(minimum: int) -> str:
    """`explain` (60 %), `calibrate` (10 %) or `score` (30 %): what an explanation may see of it."""
    u = _uniform(minimum, 2)
    return "explain" if u < 0.6 else "calibrate" if u < 0.7 else "score"


def without_near_duplicates(stream: Iterator[Document], sketch: int = 16) -> Iterator[Document]:
    """Drops a document that shares at least half of its `sketch` smallest shingle hashes with an
    earlier one (bottom-k sketches, Cohen 1997; the half is our choice)."""
    owner: dict[int, int] = {}  # shingle hash -> first document that kept it
    for number, document in enumerate(stream):
        smallest = np.unique(shingle_hashes(document.text))[:sketch].tolist()
        seen = [owner[h] for h in smallest if h in owner]
        most = max((seen.count(other) for other in set(seen)), default=0)
        if 2 * most >= len(smallest):
            continue
        for h in smallest:
            owner.setdefault(h, number)
        yield document

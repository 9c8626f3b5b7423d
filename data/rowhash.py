"""A hash of rows that depends on their content alone.

In:  Arrow record batches, in key order.
Out: SHA-256 digests, equal for equal rows however the rows were cut into batches.

A DuckDB file differs from run to run even when its rows do not, so a store carries this hash as its
identity. Each column is a few streams of bytes (null marks, lengths, little-endian values), each
stream one running SHA-256 (own).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def hash_rows(batches: Iterable[pa.RecordBatch]) -> str:
    """64 hex digits over all columns: numbers, booleans, strings, bytes, and lists of those.

    Lists hold no nulls; a null row differs from a zero, an empty text and an empty list.
    """
    streams: dict[str, hashlib._Hash] = {}
    for batch in batches:
        for column, array in zip(batch.schema.names, batch.columns, strict=True):
            marks = _numpy(array.is_null()).tobytes()
            for part, data in [(".null", marks), *_values(array)]:
                streams.setdefault(f"{column}{part}", hashlib.sha256()).update(data)
    lines = [f"{stream} {digest.hexdigest()}\n" for stream, digest in sorted(streams.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _values(array: pa.Array) -> Iterator[tuple[str, bytes]]:
    """(stream, bytes) of the values; a null counts as zero or empty, its mark tells them apart."""
    kind = array.type
    if pa.types.is_list(kind):
        items = array.flatten()
        assert items.null_count == 0, "lists hold no nulls"
        yield ".length", _lengths(pc.list_value_length(array))
        yield from ((f".item{part}", data) for part, data in _values(items))
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        values = array.cast(pa.binary())
        yield ".length", _lengths(pc.binary_length(values))
        yield ".value", b"".join(value for value in values.to_pylist() if value is not None)
    else:
        zero = pa.scalar(0).cast(kind)
        yield ".value", _little_endian(_numpy(array.fill_null(zero)))


def _lengths(lengths: pa.Array) -> bytes:
    return _little_endian(_numpy(lengths.fill_null(0)).astype(np.int64))


def _little_endian(values: np.ndarray) -> bytes:
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _numpy(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)

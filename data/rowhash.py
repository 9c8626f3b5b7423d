"""A hash of rows that depends on their content alone.

In:  Arrow record batches, in key order.
Out: SHA-256 digests, equal for equal rows however the rows were cut into batches; whether they are
     in that order.

A DuckDB file differs from run to run even when its rows do not, so a store carries this hash as its
identity. Each column is a few streams of bytes (null marks, lengths, little-endian values), each
stream one running SHA-256 (own).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class OutOfOrder(Exception):
    """Rows that should come in the order of their key do not."""


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


def in_order(batches: Iterable[pa.RecordBatch], key: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The same batches; OutOfOrder as soon as a row's key is not above the row's before it."""
    last: pa.RecordBatch | None = None
    for batch in batches:
        if len(batch) == 0:
            continue
        keys = batch.select(key)
        if last is not None:
            keys = pa.concat_batches([last, keys])
        above, same = np.zeros(len(keys) - 1, bool), np.ones(len(keys) - 1, bool)
        for column in keys.columns:
            before, after = column[:-1], column[1:]
            above |= same & _numpy(pc.greater(after, before))
            same &= _numpy(pc.equal(after, before))
        if not above.all():
            raise OutOfOrder
        last = keys.slice(len(keys) - 1)
        yield batch


def _values(array: pa.Array) -> Iterator[tuple[str, bytes | memoryview]]:
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
        yield ".value", _together(values.drop_null())
    else:
        zero = pa.scalar(0).cast(kind)
        yield ".value", _little_endian(_numpy(array.fill_null(zero)))


def _together(values: pa.BinaryArray) -> bytes | memoryview:
    """Values end to end, as they lie in memory: a Python object for each would take far longer."""
    _, offsets, data = values.buffers()
    if len(values) == 0 or data is None:
        return b""
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return memoryview(data)[ends[0] : ends[-1]]


def _lengths(lengths: pa.Array) -> bytes:
    return _little_endian(_numpy(lengths.fill_null(0)).astype(np.int64))


def _little_endian(values: np.ndarray) -> bytes:
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _numpy(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)

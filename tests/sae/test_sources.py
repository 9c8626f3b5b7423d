"""Where rows come from: every row once an epoch, positions, plain iterators."""

from itertools import islice

import pytest
import torch

from sae.config import Refused
from sae.sources import IteratorSource, Source, TensorSource, as_source


def test_tensor_source_shows_every_row_once_and_resumes():
    rows = torch.arange(10.0)[:, None]
    source = TensorSource(rows, seed=1)
    seen = torch.cat(list(islice(source.batches(4), 5))).flatten()  # two epochs
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    assert source.state() == {"kind": "tensor", "seed": 1, "n": 10, "rows": 20}
    source.seek(8)
    assert torch.equal(next(source.batches(4)).flatten(), seen[8:12])


def test_iterator_source_gives_its_first_rows_twice_and_no_more():
    pieces = torch.arange(20.0)[:, None].split(3)
    source = IteratorSource(pieces)
    assert next(source.batches(5)).flatten().tolist() == [0, 1, 2, 3, 4]
    source.seek(0)
    assert torch.cat(list(source.batches(6))).flatten().tolist() == list(range(18))
    assert source.position == 18
    with pytest.raises(Refused, match="cannot go to row 0"):
        source.seek(0)
    source.seek(18)


def test_anything_becomes_a_source():
    rows = torch.zeros(4, 2)
    assert isinstance(as_source(rows, 0), TensorSource)
    assert isinstance(as_source([rows], 0), IteratorSource)
    source = TensorSource(rows)
    assert as_source(source, 0) is source and isinstance(source, Source)

"""What people wrote about the features of one SAE, as columns that the feature list filters by.

In:  the process's `Root`, a lab (data/lab.py), the name of an SAE. Out: `Marks`, and a version that
     changes with everything anybody writes, so that a list is never older than the lab.

Only features of which something is written have a row. A column's digest stays the same as long as
its content does: a new bookmark need not sort the labels again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.lab_store import LabAnswers
from data.records import Mark
from data.schema import Root


@dataclass(frozen=True)
class Marks:
    """Columns of what is written, one value a feature that has any, sorted by feature."""

    sae: str
    feature: np.ndarray  # int32
    bookmarked: np.ndarray  # bool
    tags: pa.ListArray
    label: pa.StringArray  # in a person's own words

    @cached_property
    def digests(self) -> dict[str, str]:
        """A digest of each column with its features."""
        columns = {"bookmarked": pa.array(self.bookmarked), "tags": self.tags, "label": self.label}
        return {name: _digest(self.feature, column) for name, column in columns.items()}

    @property
    def labelled(self) -> bool:
        return len(self.label) > self.label.null_count

    def with_tag(self, tag: str) -> np.ndarray:
        """The features that have a tag."""
        owner = pc.list_parent_indices(self.tags).to_numpy()
        hit = pc.equal(self.tags.flatten(), tag).to_numpy(zero_copy_only=False)
        return self.feature[owner[hit]]

    def saying(self, wanted: str) -> np.ndarray:
        """The features whose label in a person's words contains `wanted`, which is lower-case."""
        hit = [text is not None and wanted in text.lower() for text in self.label.to_pylist()]
        return self.feature[np.array(hit, dtype=bool)]

    def of(self, features: list[int]) -> dict[int, Mark]:
        """What is written about these features; those of which nothing is are left out."""
        wanted = np.array(features, dtype=np.int64)
        at = np.searchsorted(self.feature, wanted)
        there = at < len(self.feature)
        there[there] = self.feature[at[there]] == wanted[there]
        return {
            int(self.feature[i]): Mark(
                self.sae, int(self.feature[i]), bool(self.bookmarked[i]),
                tuple(self.tags[i].as_py()), label=self.label[i].as_py(),
            )
            for i in at[there].tolist()
        }  # fmt: skip


class LabMarks:
    """Where a feature list finds its marks: the lab of the workspace, for one SAE."""

    def __init__(self, root: Root, lab: LabAnswers, sae: str) -> None:
        self._root, self._lab, self.sae = root, lab, sae

    def version(self) -> Hashable:
        """Another one after every change of the lab."""
        alias = self._lab.view().rpartition(".")[0]
        with self._root.cursor() as cursor:
            return cursor.execute(f"SELECT line, hash FROM {alias}.position").fetchone()

    def read(self) -> Marks:
        view = self._lab.view()
        with self._root.cursor() as cursor:
            table = cursor.sql(
                f"SELECT feature, bookmarked, tags, label FROM {view} WHERE sae = ? "
                "ORDER BY feature",
                params=[self.sae],
            ).to_arrow_table()
        feature, bookmarked, tags, label = (column.combine_chunks() for column in table.columns)
        return Marks(
            self.sae, feature.to_numpy(), bookmarked.to_numpy(zero_copy_only=False), tags, label
        )


def _digest(feature: np.ndarray, column: pa.Array) -> str:
    found = hashlib.blake2b(np.ascontiguousarray(feature), digest_size=16)
    for buffer in column.buffers():
        found.update(buffer if buffer is not None else b"-")
    return found.hexdigest()

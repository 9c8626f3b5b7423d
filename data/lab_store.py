"""Answers from lab.duckdb: what people wrote about features.

In:  an index (data/lab_index_store.py). Out: records, and the view that the feature list joins.

Each answer is as new as the journal. Writing: data/lab.py, whose `Lab` is also what pages ask.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from data.errors import WorkbenchError
from data.lab_index_store import LabIndex
from data.records import Change, FeatureList, Mark, SavedFilter, Written

MARK = "sae, feature, bookmarked, tags, note, label, changed"


class LabAnswers:
    """Named queries over one lab. Safe between threads."""

    def __init__(self, index: LabIndex) -> None:
        self._index = index

    def view(self) -> str:
        """The table to join in this process's `Root`: sae, feature, bookmarked, tags VARCHAR[],
        note, label, changed; one row for each feature of which anything is written."""
        return self._index.view()

    def mark(self, sae: str, feature: int) -> Mark:
        """What is written about one feature; an empty Mark if nothing is."""
        rows = self._index.ask(
            f"SELECT {MARK} FROM mark WHERE sae = ? AND feature = ?", sae, feature
        )
        return _mark(rows[0]) if rows else Mark(sae, feature)

    def marks(self, sae: str) -> dict[int, Mark]:
        """The marks of all features of an SAE that have any, by feature."""
        rows = self._index.ask(f"SELECT {MARK} FROM mark WHERE sae = ? ORDER BY feature", sae)
        return {row[1]: _mark(row) for row in rows}

    def notes(self, sae: str, feature: int) -> list[Written]:
        """The versions of a feature's note, the shown one first."""
        return self._versions("note", sae, feature)

    def labels(self, sae: str, feature: int) -> list[Written]:
        """The versions of a feature's label, the shown one first."""
        return self._versions("label", sae, feature)

    def tags(self, sae: str | None = None) -> dict[str, int]:
        """How many features have each tag, the commonest first; of one SAE, or of all."""
        rows = self._index.ask(
            """SELECT tag, count(*) FROM (SELECT unnest(tags) AS tag FROM mark
               WHERE sae = coalesce(?, sae)) GROUP BY tag ORDER BY count(*) DESC, tag""",
            sae,
        )
        return dict(rows)

    def tagged(self, sae: str, tag: str) -> set[int]:
        """The features of an SAE with that tag."""
        rows = self._index.ask(
            "SELECT feature FROM mark WHERE sae = ? AND list_contains(tags, ?)", sae, tag
        )
        return {row[0] for row in rows}

    def bookmarks(self, sae: str | None = None) -> list[Mark]:
        """The bookmarked features, the last changed first; of one SAE, or of all."""
        rows = self._index.ask(
            f"""SELECT {MARK} FROM mark WHERE bookmarked AND sae = coalesce(?, sae)
                ORDER BY changed DESC, sae, feature""",
            sae,
        )
        return [_mark(row) for row in rows]

    def lists(self) -> list[FeatureList]:
        """All lists by name, each with its entries in order."""
        entries = defaultdict(list)
        for sae, feature, name, _, _, _ in self.registers("entry"):
            entries[name].append((sae, feature))
        named = self.registers("list")
        found = [
            FeatureList(id, n, who, time, tuple(entries[id])) for _, _, id, n, who, time in named
        ]
        return sorted(found, key=lambda one: (one.name.casefold(), one.id))

    def feature_list(self, id: str) -> FeatureList:
        """One list. WorkbenchError if there is none of that id."""
        found = next((one for one in self.lists() if one.id == id), None)
        if found is None:
            raise WorkbenchError(f"there is no list {id!r:.60}: it may have been deleted")
        return found

    def filters(self) -> list[SavedFilter]:
        """The saved filters by name."""
        return [
            SavedFilter(name, json.loads(value), who, time)
            for _, _, name, value, who, time in self.registers("filter")
        ]

    def changes(self, limit: int = 50, who: str | None = None) -> list[Change]:
        """The last changes that were not undone, the newest first; of one person, or of all."""
        lines = self._index.ask(
            """SELECT DISTINCT line FROM live WHERE writer = coalesce(?, writer)
               ORDER BY line DESC LIMIT ?""",
            who,
            limit,
        )
        rows = self._index.ask(
            """SELECT line, action, writer, written, count(*) OVER (PARTITION BY line),
                   kind, sae, feature, name, value
               FROM change WHERE list_contains(?::INTEGER[], line)
               QUALIFY row_number() OVER (PARTITION BY line ORDER BY item) = 1
               ORDER BY line DESC""",
            [line for (line,) in lines],
        )
        return [Change(*row) for row in rows]

    def registers(self, kind: str) -> list[tuple[Any, ...]]:
        """(sae, feature, name, value, who, time) of everything of that kind which is there."""
        order = "name, value, sae, feature" if kind == "entry" else "sae, feature, name"
        return self._index.ask(
            f"""SELECT sae, feature, name, value, who, time FROM register
                WHERE kind = ? AND value IS NOT NULL ORDER BY {order}""",
            kind,
        )

    def weights(self, sae: str) -> str | None:
        """The weights last met under the name of an SAE (Lab.meet); None before the first time."""
        rows = self._index.ask("SELECT weights FROM known_sae WHERE sae = ?", sae)
        return rows[0][0] if rows else None

    def last_change(self, who: str) -> Change | None:
        """What that person's `undo` would take back; None if there is nothing."""
        return next(iter(self.changes(1, who)), None)

    def already(self, sae: str, features: list[int], tag: str | None) -> set[int]:
        """Those of these features that have a tag already; None: that are bookmarked."""
        rows = self._index.ask(
            """SELECT feature FROM mark WHERE sae = ? AND list_contains(?::INTEGER[], feature)
               AND CASE WHEN ? THEN bookmarked ELSE list_contains(tags, ?) END""",
            sae,
            features,
            tag is None,
            tag,
        )
        return {row[0] for row in rows}

    def versions(self, kind: str) -> dict[tuple[str, int], list[Written]]:
        """All notes or labels ever written, by (sae, feature), the shown one last."""
        found = defaultdict(list)
        rows = self._index.ask(
            """SELECT sae, feature, coalesce(value, ''), who, time FROM live WHERE kind = ?
               ORDER BY sae, feature, shown, line, item""",
            kind,
        )
        for sae, feature, *written in rows:
            found[sae, feature].append(Written(*written))
        return dict(found)

    def _versions(self, kind: str, sae: str, feature: int) -> list[Written]:
        rows = self._index.ask(
            """SELECT coalesce(value, ''), who, time FROM live
               WHERE kind = ? AND sae = ? AND feature = ?
               ORDER BY shown DESC, line DESC, item DESC""",
            kind,
            sae,
            feature,
        )
        return [Written(*row) for row in rows]


def _mark(row: tuple[Any, ...]) -> Mark:
    sae, feature, bookmarked, tags, note, label, changed = row
    return Mark(sae, feature, bookmarked, tuple(tags), note, label, changed)

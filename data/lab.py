"""What people write about features: bookmarks, tags, notes, labels, lists, saved filters.

In:  the process's `Root`, the paths of lab.jsonl and lab.duckdb; changes, each by somebody.
Out: one object, `Lab`, that pages write to and ask (its answers: data/lab_store.py).

Everything is one team's: whoever may write changes what all see, and each change keeps its author.
A change is on the disk, in the journal, before its method returns (data/journal.py). What may be
written, and as what event: data/lab_events.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from data import lab_events, lab_exchange
from data.errors import WorkbenchError
from data.lab_events import place_between
from data.lab_index_store import LabIndex
from data.lab_store import LabAnswers
from data.records import Change, FeatureList
from data.schema import Root
from data.workspace import Workspace


def now() -> str:
    """The time as the journal has it; such texts sort as the times do."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def open_lab(root: Root, workspace: Workspace, own: bool = True) -> Lab:
    """The lab of a workspace. own: keep the index in lab.duckdb, as the app does; a command leaves
    that file to the app. Raises StoreError for a damaged journal."""
    return Lab(root, workspace.lab_journal, workspace.lab_index if own else None)


class Lab(LabAnswers):
    """What a team wrote about its features. Safe between threads; one for all sessions.

    who: the person. Raises WorkbenchError for what may not be written, StoreError where it cannot
    be saved; then nothing has changed.
    """

    def __init__(
        self,
        root: Root,
        journal: str | Path,
        index: str | Path | None = None,
        clock: Callable[[], str] = now,
    ) -> None:
        """index: the path of lab.duckdb; None: in memory."""
        super().__init__(LabIndex(root, journal, index))
        self._clock = clock

    def close(self) -> None:
        """Lets go of lab.duckdb; the lab is of no use afterwards."""
        self._index.close()

    # ------------------------------------------------------------ marks

    def bookmark(self, sae: str, features: int | Iterable[int], on: bool, *, who: str) -> int:
        """Bookmarks one feature or several, or no longer; how many that changed."""
        return self._toggle(lab_events.bookmark(sae, features, on), who)

    def tag(self, sae: str, features: int | Iterable[int], tag: str, *, who: str) -> int:
        """Gives a tag to one feature or several; how many had it not."""
        return self._toggle(lab_events.tag(sae, features, tag, True), who)

    def untag(self, sae: str, features: int | Iterable[int], tag: str, *, who: str) -> int:
        """Takes a tag from one feature or several; how many had it."""
        return self._toggle(lab_events.tag(sae, features, tag, False), who)

    def note(self, sae: str, feature: int, text: str, *, who: str) -> bool:
        """Writes the note of a feature, "" to take it away; whether it is another than before."""
        return self._say("note", sae, feature, text, who)

    def label(self, sae: str, feature: int, text: str, *, who: str) -> bool:
        """Says in a person's own words what a feature stands for; "" and result as in `note`."""
        return self._say("label", sae, feature, text, who)

    def meet(self, sae: str, weights: str, *, who: str) -> str | None:
        """Tells which weights (SHA-256) stand under the name of an SAE now.

        If they are others than the last time, what was written belongs to features that are no
        longer there: it is filed under another name, which is returned once.
        """
        with self._index.lock:
            known = self.weights(lab_events.an_sae(sae))
            if known == weights:
                return None
            self._write({"kind": "sae", "sae": sae, "weights": weights}, who)
            return lab_events.earlier(sae, known) if known is not None else None

    # ------------------------------------------------------------ lists and filters

    def create_list(self, name: str, *, who: str) -> FeatureList:
        """An empty list. WorkbenchError if there is one of that name."""
        event = lab_events.named(secrets.token_hex(6), name)
        with self._index.lock:
            self._refuse_taken(event["name"])
            self._write(event, who)
            return self.feature_list(event["list"])

    def rename_list(self, id: str, name: str, *, who: str) -> None:
        event = lab_events.named(id, name)
        with self._index.lock:
            if event["name"] != self.feature_list(id).name:
                self._refuse_taken(event["name"])
                self._write(event, who)

    def delete_list(self, id: str, *, who: str) -> None:
        with self._index.lock:
            self.feature_list(id)
            self._write(lab_events.named(id, None), who)

    def add_to_list(self, id: str, entries: Iterable[tuple[str, int]], *, who: str) -> int:
        """Puts each (sae, feature) at the end of a list; how many were not in it."""
        with self._index.lock:
            self.feature_list(id)
            places, new = self._places(id), []
            last = max(places.values(), default=None)
            for sae, feature in entries:
                if (sae, feature) not in places:
                    last = places[sae, feature] = place_between(last, None)
                    new.append((sae, feature, last))
            if new:
                self._write(lab_events.placed(id, new), who)
            return len(new)

    def remove_from_list(self, id: str, entries: Iterable[tuple[str, int]], *, who: str) -> int:
        """Takes each (sae, feature) out of a list; how many were in it."""
        with self._index.lock:
            self.feature_list(id)
            places = self._places(id)
            gone = [(*entry, None) for entry in dict.fromkeys(entries) if entry in places]
            if gone:
                self._write(lab_events.placed(id, gone), who)
            return len(gone)

    def move_in_list(self, id: str, sae: str, feature: int, to: int, *, who: str) -> None:
        """Moves an entry to a number in the list, counted from 1; beyond its ends to the end.

        WorkbenchError if it is not in the list.
        """
        with self._index.lock:
            order = list(self.feature_list(id).entries)
            if (sae, feature) not in order:
                raise WorkbenchError(
                    f"feature {feature} of {sae} is not in this list: add it first"
                )
            at = min(max(to, 1), len(order)) - 1
            if order.index((sae, feature)) == at:
                return
            order.remove((sae, feature))
            places = self._places(id)
            before = places[order[at - 1]] if at > 0 else None
            after = places[order[at]] if at < len(order) else None
            place = place_between(before, after)
            self._write(lab_events.placed(id, [(sae, feature, place)]), who)

    def save_filter(self, name: str, query: Mapping[str, str], *, who: str) -> None:
        """Keeps a filter of the feature list (keys and values of the address) under a name; one
        that was there of that name is replaced."""
        event = lab_events.saved(name, query)
        with self._index.lock:
            if (event["name"], event["query"]) not in [(f.name, f.query) for f in self.filters()]:
                self._write(event, who)

    def delete_filter(self, name: str, *, who: str) -> None:
        """WorkbenchError if there is none of that name."""
        event = lab_events.saved(name, None)
        with self._index.lock:
            if event["name"] not in [one.name for one in self.filters()]:
                raise WorkbenchError(f"there is no filter {name!r}: it may have been deleted")
            self._write(event, who)

    # ------------------------------------------------------------ undo, export, import

    def undo(self, *, who: str) -> Change | None:
        """Takes back a person's last change that is not yet undone; None if there is none.

        It then counts as never made: what others wrote since stays.
        """
        with self._index.lock:
            change = self.last_change(who)
            if change is not None:
                self._write({"kind": "undo", "line": change.line}, who)
            return change

    def export_json(self) -> str:
        """Everything that is there, as JSON that `import_json` takes (data/lab_exchange.py)."""
        with self._index.lock:
            return lab_exchange.exported(self)

    def import_json(self, text: str | bytes, *, who: str) -> dict[str, int]:
        """Adds what an export holds and the lab lacks; how many items of each kind.

        It removes nothing. Where both have a text for the same thing the newer one is shown. One
        `undo` takes all of it back. WorkbenchError, naming the place, for anything that is no
        export; then nothing has changed.
        """
        with self._index.lock:
            items = lab_exchange.lacking(self, lab_exchange.parsed(text))
            if items:
                self._write({"kind": "import", "items": items}, who)
        counts: dict[str, int] = {}
        for item in items:
            counts[item["kind"]] = counts.get(item["kind"], 0) + 1
        return counts

    # ------------------------------------------------------------ inside

    def _write(self, event: dict, who: str) -> None:
        person = lab_events.line("name of a person", who, "who")
        head = {"kind": event["kind"], "who": person, "time": self._clock()}
        self._index.write({**head, **event})

    def _toggle(self, event: dict, who: str) -> int:
        """Writes what an event would change, if anything; of how many features."""
        with self._index.lock:
            there = self.already(event["sae"], event["features"], event.get("tag"))
            changed = [f for f in event["features"] if (f in there) != event["on"]]
            if changed:
                self._write({**event, "features": changed}, who)
            return len(changed)

    def _say(self, kind: str, sae: str, feature: int, text: str, who: str) -> bool:
        event = lab_events.written(kind, sae, feature, text)
        with self._index.lock:
            if event["text"] == (getattr(self.mark(sae, event["feature"]), kind) or ""):
                return False
            self._write(event, who)
            return True

    def _places(self, id: str) -> dict[tuple[str, int], str]:
        """Places of a list's entries, in order."""
        rows = self.registers("entry")
        return {(sae, feature): place for sae, feature, name, place, _, _ in rows if name == id}

    def _refuse_taken(self, name: str) -> None:
        if name in [one.name for one in self.lists()]:
            raise WorkbenchError(f"there is a list {name!r} already: choose another name")

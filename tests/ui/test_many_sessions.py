"""Twenty people at once on one server: everybody sees what they asked for, and nothing that anybody
writes is lost or ends up elsewhere. Real sessions over the websocket, one thread each."""

from __future__ import annotations

import random
import threading

from bench.wire import ROOT, Visitor, served
from data.lab import open_lab
from data.schema import open_root
from data.workspace import Workspace

PEOPLE, STEPS, FEATURES = 20, 6, 64


def test_twenty_people_read_and_mark(workspace, tmp_path):
    faults: list[str] = []

    def work(person: int, address: str) -> None:
        draw, own = random.Random(person), person + 4
        try:
            with Visitor(address) as visitor:
                visitor.open("feature", {"sae": "small", "f": str(own)})
                visitor.stay({"sae": "small", "f": str(own)}, Bookmark=True)
                _check(visitor, own)
                for _ in range(STEPS):
                    feature = draw.randrange(FEATURES)
                    visitor.stay({"sae": "small", "f": str(feature)})
                    _check(visitor, feature)
        except Exception as error:  # a thread must not fail in silence
            faults.append(f"person {person}: {type(error).__name__}: {error}")

    log = tmp_path / "log.txt"
    with served(ROOT / "app.py", log, "--workspace", str(workspace)) as address:
        with Visitor(address, 120) as first:  # imports, once
            first.open("feature", {"sae": "small", "f": "1"})
        people = [threading.Thread(target=work, args=(n, address)) for n in range(PEOPLE)]
        for person in people:
            person.start()
        for person in people:
            person.join()
    assert faults == []
    assert "Traceback" not in log.read_text()
    marks = open_lab(open_root(), Workspace.open(workspace), own=False).marks("small")
    assert {f for f, mark in marks.items() if mark.bookmarked} == set(range(4, 4 + PEOPLE))


def _check(visitor: Visitor, feature: int) -> None:
    headings, errors = visitor.texts("heading"), visitor.texts("exception")
    assert headings[0] == f"Feature {feature}" and not errors, (feature, headings, errors)

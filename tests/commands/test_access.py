"""`access add|remove|list` from the command line."""

from __future__ import annotations

import re

import run
from data.access import Access, Person


def test_people_come_and_go(tmp_path, capsys):
    where = ["--workspace", str(tmp_path)]
    assert run.main(["access", "list", *where]) == 0
    assert "everybody who reaches the app" in capsys.readouterr().out
    assert run.main(["access", "add", "Ada", *where]) == 0
    passcode = re.search(r"shown this once: (\S+)", capsys.readouterr().out)[1]
    assert Access(tmp_path).enter("Ada", passcode) == Person("Ada")
    assert run.main(["access", "add", "Eve", "--role", "rater", *where]) == 0
    assert run.main(["access", "list", *where]) == 0
    assert "researcher  Ada\nrater       Eve" in capsys.readouterr().out
    assert run.main(["access", "remove", "Ada", *where]) == 2
    assert "last researcher" in capsys.readouterr().err
    assert run.main(["access", "add", "Bob", "--role", "king", *where]) == 2

"""The documents against the disk: every file and every command they name is there, and no file of
the program is left out of the README's tree.

Each check is a pure function from text to faults, and is shown to find a planted one.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import run

REPOSITORY = Path(__file__).resolve().parents[1]
HEADING = "## The files, in reading order"
PROGRAM = sorted(
    str(path.relative_to(REPOSITORY))
    for room in ("sae", "data", "interp", "ui", "commands")
    for path in (REPOSITORY / room).rglob("*.py")
    if path.name != "__init__.py"
) + ["app.py", "run.py"]


def documents() -> dict[str, str]:
    """path -> text of the README and all of docs/."""
    paths = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("**/*.md"))]
    return {str(path.relative_to(REPOSITORY)): path.read_text("utf-8") for path in paths}


def tree(readme: str) -> list[str]:
    """The paths named in the fenced block under HEADING: the first word of each line that starts
    at the margin."""
    block = re.search(re.escape(HEADING) + r"\n.*?^```\w*\n(.*?)^```", readme, re.S | re.M)
    assert block is not None, f"README.md has no fenced block under {HEADING!r}"
    return re.findall(r"^(\S+)", block[1], re.M)


def tree_faults(readme: str, program: list[str]) -> list[str]:
    """What the tree names and the disk lacks, what the program has and the tree lacks, and what
    stands there twice."""
    named = tree(readme)
    return [
        *(f"{path} is not there" for path in named if not (REPOSITORY / path).exists()),
        *(f"{path} is not named" for path in program if path not in named),
        *(f"{path} stands there twice" for path in sorted(set(named)) if named.count(path) > 1),
    ]


def command_faults(text: str, commands: set[str], targets: set[str]) -> list[str]:
    """Commands of run.py and targets of the Makefile that `text` tells people to use and that
    there are not. Capitals (COMMAND, ...) stand for any."""
    faults = []
    for words in re.findall(r"\brun\.py((?: +[a-z][a-z_-]*)+)", text):
        typed = words.split()
        if typed[0] not in commands and " ".join(typed[:2]) not in commands:
            faults.append(f"run.py {typed[0]}")
    # Only as code: "make" is also an English word.
    for target in re.findall(r"(?:^|`)make ([a-z][a-z_-]*)", text, re.M):
        if target not in targets:
            faults.append(f"make {target}")
    return faults


def makefile_targets() -> set[str]:
    rules = re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text(), re.M)
    return set(rules)


def test_the_tree_of_the_readme_is_the_disk():
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    assert len(PROGRAM) > 30
    assert tree_faults(readme, PROGRAM) == []


@pytest.mark.parametrize("name", documents())
def test_named_commands_exist(name):
    assert command_faults(documents()[name], set(run.COMMANDS), makefile_targets()) == []


def test_links_of_the_documents_lead_somewhere():
    for name, text in documents().items():
        for link in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in link:
                assert (REPOSITORY / name).parent.joinpath(link).exists(), f"{name}: {link}"


def test_the_makefile_has_the_promised_targets():
    assert {"demo", "test", "soak", "lint", "bench", "peers"} <= makefile_targets()


def test_planted_faults_are_found():
    text = f"{HEADING}\n\nOf all:\n\n```\nrun.py   door\n  more of it\ngone.py  x\nrun.py  y\n```\n"
    assert tree(text) == ["run.py", "gone.py", "run.py"]
    assert tree_faults(text, ["run.py", "app.py"]) == [
        "gone.py is not there", "app.py is not named", "run.py stands there twice",
    ]  # fmt: skip
    with pytest.raises(AssertionError, match="no fenced block"):
        tree("# Something else\n```\nrun.py\n```\n")
    text = "`run.py trian x`, run.py lm train, run.py COMMAND\nmake dmeo\nwe make it; `make test`"
    assert command_faults(text, {"train", "lm train"}, {"test"}) == ["run.py trian", "make dmeo"]

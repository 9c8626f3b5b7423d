"""What every page shares: links, and messages that name no folder of this machine."""

from __future__ import annotations

import pytest

from ui.shell import without_paths


@pytest.mark.parametrize(
    "text, shown",
    [
        (
            "no SAE 'x' in /home/ada/work: there is none yet",
            "no SAE 'x' in work: there is none yet",
        ),
        ("/srv/w/saes/demo/features.duckdb has schema 3", "saes/demo/features.duckdb has schema 3"),
        ("see /srv/w/jobs/model_worker.log", "see jobs/model_worker.log"),
        ("cannot read '/a/b/c.txt', give another", "cannot read 'c.txt', give another"),
        ("give 1/2 or and/or a/b", "give 1/2 or and/or a/b"),
        ("http://localhost:8501/features", "http://localhost:8501/features"),
        ("saes/demo and ./x/y stay", "saes/demo and ./x/y stay"),
    ],
)
def test_messages_name_no_folder_of_this_machine(text, shown):
    assert without_paths(text) == shown

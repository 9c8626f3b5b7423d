"""What every page shares: links, and messages that name no folder of this machine."""

from __future__ import annotations

import pytest
from streamlit.util import calc_hash

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


def test_an_unreadable_run_does_not_stand_in_the_way_of_the_features(workspace, open_page):
    (results,) = (workspace / "autointerp").glob("*/results.duckdb")
    results.write_bytes(b"not a store")
    for page, params in (("features", {}), ("feature", {"f": "1"}), ("compare", {})):
        test = open_page(workspace, page, sae="small", **params)
        assert not test.exception and not test.error, page
    told = open_page(workspace, "feature", sae="small", f="1").caption
    assert any("Labels cannot be shown" in caption.value for caption in told)
    assert not any(str(workspace) in caption.value for caption in told)


def test_the_first_page_has_its_name_as_an_address_too(built, open_page):
    test = open_page(built, "overview", sae="small")
    test._page_hash = calc_hash("overview")
    test.run()
    assert not test.exception and test.title[0].value == "small"


def test_a_misspelt_key_of_the_address_is_told(built, open_page):
    test = open_page(built, "features", sae="small", den_low="0.01")
    assert [w.value for w in test.warning] == [
        "This app does not know den\\_low of the address, and left it out."
    ]
    assert not open_page(built, "features", sae="small", den_lo="0.01").warning

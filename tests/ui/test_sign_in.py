"""Signing in: nobody is asked on an open workspace; else a name, a passcode and a role decide."""

from __future__ import annotations

import pytest

from data.access import Access
from tests.ui.test_pages import words_of


def sign_in(test, name: str, passcode: str):
    test.text_input[0].set_value(name)
    test.text_input[1].set_value(passcode)
    return test.button[0].click().run()


@pytest.fixture
def closed(built):
    access = Access(built)
    passcodes = {"Ada": access.add("Ada"), "Eve": access.add("Eve", "rater")}
    yield passcodes
    access.path.unlink()


def test_an_open_workspace_asks_nobody(open_page, built):
    assert "Sign in" not in words_of(open_page(built))


def test_a_closed_one_shows_nothing_before_signing_in(open_page, built, closed):
    test = open_page(built, "features", sae="small")
    assert [title.value for title in test.title] == ["Sign in"]
    assert not test.dataframe and "small" not in words_of(test)


def test_a_researcher_signs_in_and_out(open_page, built, closed):
    test = sign_in(open_page(built), "Ada", closed["Ada"])
    assert test.title[0].value == "small" and "Signed in as Ada" in words_of(test)
    test.button(key="sign_out").click().run()
    assert test.title[0].value == "Sign in"


def test_a_wrong_passcode_is_one_sentence(open_page, built, closed):
    test = sign_in(open_page(built), "Ada", closed["Eve"])
    assert test.error[0].value == "no such name with this passcode."
    assert test.title[0].value == "Sign in"


def test_a_rater_sees_one_page(open_page, built, closed):
    test = sign_in(open_page(built), "Eve", closed["Eve"])
    assert test.title[0].value == "Rate"
    assert "small" not in words_of(test) and not test.selectbox


def test_who_is_removed_is_out_at_once(open_page, built, closed):
    test = sign_in(open_page(built), "Eve", closed["Eve"])
    Access(built).remove("Eve")
    assert test.run().title[0].value == "Sign in"

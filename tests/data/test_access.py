"""Who may come in: passcodes, roles, tokens, and what an attacker would try."""

from __future__ import annotations

import json
import stat
import threading

import pytest

from data.access import TOKEN_S, Access, Person
from data.errors import AccessRefused, WorkspaceError


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def access(tmp_path):
    return Access(tmp_path, Clock())


def test_open_until_somebody_is_named(access):
    assert access.open and access.people() == []
    access.add("Ada")
    assert not access.open and access.people() == [Person("Ada")]
    access.remove("Ada")
    assert access.open


def test_a_passcode_opens_for_its_name_only(access):
    ada, eve = access.add("Ada"), access.add("Eve", "rater")
    assert access.enter("Ada", ada) == Person("Ada", "researcher")
    assert access.enter(" Eve ", f" {eve.upper()} ") == Person("Eve", "rater")
    for name, passcode in (("Ada", eve), ("Eve", ada), ("Ada", ""), ("nobody", ada)):
        with pytest.raises(AccessRefused, match="no such name with this passcode"):
            access.enter(name, passcode)


def test_the_file_holds_no_passcode_and_is_its_owners(access):
    passcode = access.add("Ada")
    text = access.path.read_text()
    assert passcode not in text and passcode.replace("-", "") not in text
    assert stat.S_IMODE(access.path.stat().st_mode) == 0o600


def test_a_new_passcode_replaces_the_old_one_and_its_browsers(access):
    first = access.add("Ada")
    token = access.token(access.enter("Ada", first))
    assert access.holder(token) == Person("Ada")
    second = access.add("Ada")
    assert access.holder(token) is None
    with pytest.raises(AccessRefused):
        access.enter("Ada", first)
    assert access.enter("Ada", second) == Person("Ada")


def test_a_token_ends_with_time_removal_and_change_of_role(access):
    access.add("Boss")
    token = access.token(access.enter("Ada", access.add("Ada")))
    access._clock.now += TOKEN_S - 1
    assert access.holder(token) == Person("Ada")
    access._clock.now += 2
    assert access.holder(token) is None
    access._clock.now -= 2
    access.remove("Ada")
    assert access.holder(token) is None


def test_a_signed_out_token_is_dead_but_another_browser_stays(access):
    ada = access.enter("Ada", access.add("Ada"))
    here = access.token(ada)
    access._clock.now += 1
    there = access.token(ada)
    access.end(here)
    access.end("nonsense")
    assert access.holder(here) is None and access.holder(there) == ada


def test_a_token_cannot_be_made_up_or_changed(access):
    access.add("Ada")
    eve = access.token(access.enter("Eve", access.add("Eve", "rater")))
    who, expires, seal = eve.split(".")
    forged = [
        None, "", "x", "..", f"{b'Ada'.hex()}.{expires}.{seal}", f"{who}.{int(expires) + 1}.{seal}",
        f"{who}.{expires}.{seal[:-1]}0", f"{who}.{expires}.", f"zz.{expires}.{seal}",
        f"ff.{expires}.{seal}", eve + ".", f"{who}.{expires}.é",
    ]  # fmt: skip
    assert [access.holder(token) for token in forged] == [None] * len(forged)


def test_wrong_passcodes_make_one_wait(access):
    passcode = access.add("Ada")
    for _ in range(4):
        with pytest.raises(AccessRefused, match="no such name"):
            access.enter("Ada", "wrong")
        access._clock.now += 2.5
    with pytest.raises(AccessRefused, match="no such name"):
        access.enter("Ada", "wrong")
    with pytest.raises(AccessRefused, match="try again in"):
        access.enter("Ada", passcode)
    access._clock.now += 100
    assert access.enter("Ada", passcode) == Person("Ada")


def test_the_last_researcher_stays(access):
    access.add("Ada")
    access.add("Eve", "rater")
    with pytest.raises(WorkspaceError, match="last researcher"):
        access.remove("Ada")
    with pytest.raises(WorkspaceError, match="nobody is called"):
        access.remove("Bob")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101])
def test_odd_names_are_refused(access, name):
    with pytest.raises(WorkspaceError, match="is no name"):
        access.add(name)
    assert access.open


def test_an_unknown_role_is_refused(access):
    with pytest.raises(WorkspaceError, match="no role 'admin'"):
        access.add("Ada", "admin")


def test_a_damaged_file_lets_nobody_in(access):
    passcode = access.add("Ada")
    access.path.write_text("{")
    assert not access.open
    with pytest.raises(WorkspaceError, match="cannot be read"):
        access.enter("Ada", passcode)


def test_a_service_vouches_for_addresses_that_were_added(access):
    assert access.add("ada@example.org", service=True) is None
    assert access.vouched("Ada@example.org") == Person("ada@example.org")
    with pytest.raises(AccessRefused, match="not let in"):
        access.vouched("eve@example.org")
    with pytest.raises(AccessRefused):
        access.enter("ada@example.org", "")  # an entry without a passcode opens for none
    access.add("Bob")
    with pytest.raises(AccessRefused):
        access.vouched("Bob")  # nor does a service open one that has a passcode


def test_entries_survive_many_at_once(access):
    passcodes = {}
    names = [f"person {i}" for i in range(4)]
    for name in names:
        passcodes[name] = access.add(name)
    seen = []

    def enter(name: str) -> None:
        seen.append(access.enter(name, passcodes[name]))

    threads = [threading.Thread(target=enter, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(person.name for person in seen) == names
    assert len(json.loads(access.path.read_text())["people"]) == 4

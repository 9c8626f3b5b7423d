"""Jobs of several commands: one after another, and no further than the first that fails."""

from __future__ import annotations

import json
import os
import select
import sys
import time

import pytest

from data.jobs import THEN, Jobs, commands_of
from data.records import Job

WAIT = "import time; print('here', flush=True); time.sleep(600)"


@pytest.fixture
def jobs(tmp_path) -> Jobs:
    made = Jobs(tmp_path / "jobs", 3, (sys.executable, "-c"), grace_s=(0.3, 0.3))
    yield made
    for job in made.newest():
        if job.state == "running":
            made.cancel(job.id, now=True)
            ended(made, job.id)


def ended(jobs: Jobs, id: str) -> Job:
    """The job once nobody looks after it any more."""
    told = json.loads((jobs.folder / id / "job.json").read_text())
    try:
        handle = os.pidfd_open(told["supervisor"]["pid"])
    except ProcessLookupError:
        return jobs.get(id)
    try:
        assert jobs.get(id).state != "running" or select.select([handle], [], [], 30)[0]
    finally:
        os.close(handle)
    return jobs.get(id)


def test_arguments_are_cut_at_the_sign():
    assert commands_of(["a", "1", THEN, "b"]) == [["a", "1"], ["b"]]
    assert commands_of(["a"]) == [["a"]] and commands_of([]) == [[]]


def test_commands_run_one_after_another(jobs):
    job = ended(jobs, jobs.start(["print(1)", THEN, "print(2)", THEN, "print(3)"], "t").id)
    assert (job.state, job.exit_code) == ("done", 0)
    assert jobs.log(job.id).split() == ["1", "2", "3"]
    assert job.arguments == ("print(1)", THEN, "print(2)", THEN, "print(3)")


def test_what_comes_after_a_failure_is_not_started(jobs):
    code = "print('bad', flush=True); raise SystemExit(2)"
    job = ended(jobs, jobs.start([code, THEN, "print('never')"], "t").id)
    assert (job.state, job.exit_code, job.reason) == ("failed", 2, "exit code 2: bad")
    assert jobs.log(job.id) == "bad"


def test_cancelling_stops_the_one_that_runs_and_starts_no_other(jobs):
    job = jobs.start(["print('first')", THEN, WAIT, THEN, "print('never')"], "t")
    deadline = time.monotonic() + 30
    while "here" not in jobs.log(job.id):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    jobs.cancel(job.id)
    job = ended(jobs, job.id)
    assert job.state == "cancelled" and jobs.log(job.id).split()[:2] == ["first", "here"]
    assert "never" not in jobs.log(job.id)


def test_a_command_that_ends_well_although_it_was_to_stop_is_the_last(jobs):
    """The job is cancelled, not done: something was left to do."""
    code = "import signal, sys\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(0))\n" + WAIT
    job = jobs.start([code, THEN, "print('never')"], "t")
    deadline = time.monotonic() + 30
    while "here" not in jobs.log(job.id):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    jobs.cancel(job.id)
    job = ended(jobs, job.id)
    assert (job.state, job.exit_code) == ("cancelled", 0) and jobs.log(job.id) == "here"

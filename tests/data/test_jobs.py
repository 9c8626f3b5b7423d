"""Background jobs: started, followed, stopped; alive, dead, undead or somebody else's number."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from commands import progress
from data import jobs as jobs_file
from data import processes
from data.errors import WorkbenchError
from data.jobs import JOB_FOLDER, Jobs, Teller
from data.processes import identity, runs, send
from data.records import Job

REPOSITORY = Path(__file__).resolve().parents[2]
FOREVER = "import time; print('here', flush=True); time.sleep(600)"
STUBBORN = """
import signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda n, frame: print('no', n, flush=True))
print('here', flush=True)
while True:
    time.sleep(600)
"""


@pytest.fixture
def jobs(tmp_path) -> Jobs:
    """Runs Python code instead of commands; whatever is left is ended."""
    made = Jobs(tmp_path / "jobs", 3, (sys.executable, "-c"), grace_s=(0.3, 0.3))
    yield made
    for job in made.newest():
        if job.state == "running":
            made.cancel(job.id, now=True)
            ended(made, job.id)


def about(jobs: Jobs, id: str) -> dict:
    return json.loads((jobs.folder / id / "job.json").read_text())


def gone(process: dict, within_s: float = 30) -> bool:
    """Waits for the end of a process, asleep."""
    try:
        handle = os.pidfd_open(process["pid"])
    except ProcessLookupError:
        return True
    try:
        return not runs(process) or bool(select.select([handle], [], [], within_s)[0])
    finally:
        os.close(handle)


def ended(jobs: Jobs, id: str) -> Job:
    """The job once its processes are gone."""
    told = about(jobs, id)
    assert gone(told["supervisor"])
    assert "process" not in told or gone(told["process"])
    return jobs.get(id)


def until_it_says(jobs: Jobs, id: str, word: str) -> None:
    deadline = time.monotonic() + 30
    while word not in jobs.log(id):
        assert time.monotonic() < deadline, jobs.log(id)
        time.sleep(0.02)


# ---------------------------------------------------------------- how jobs end


def test_a_job_runs_and_is_done(jobs, monkeypatch):
    monkeypatch.chdir(jobs.folder.parent)
    code = "import os, sys; print(os.getcwd()); print('err', file=sys.stderr); print(sys.argv)"
    job = jobs.start([code, "a b", "--c='d'"], "Say where", who="ada")
    assert (job.title, job.who, job.arguments) == ("Say where", "ada", (code, "a b", "--c='d'"))
    job = ended(jobs, job.id)
    assert (job.state, job.exit_code, job.reason, job.cancelling) == ("done", 0, None, False)
    assert job.began <= job.ended <= time.time() and job.peak_bytes > 1e6
    assert jobs.log(job.id).splitlines() == [
        str(jobs.folder.parent), "err", "['-c', 'a b', \"--c='d'\"]",
    ]  # fmt: skip
    files = sorted(path.name for path in (jobs.folder / job.id).iterdir())
    assert files == ["job.json", "log.txt"]


@pytest.mark.parametrize(
    ("code", "exit_code", "reason"),
    [
        ("import sys; print('WorkspaceError: no SAE x', file=sys.stderr); sys.exit(2)", 2,
         "exit code 2: WorkspaceError: no SAE x"),
        ("raise ValueError('<b>bad</b>')", 1, "exit code 1: ValueError: <b>bad</b>"),
        ("print('╭─╮\\n│ bad value │\\n╰─╯'); raise SystemExit(2)", 2, "exit code 2: bad value"),
        ("import sys; sys.exit(3)", 3, "exit code 3: it said nothing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9,
         "ended by SIGKILL: out of memory?"),
        ("import os; print('last words', flush=True); os.abort()", -6, "ended by SIGABRT"),
    ],
)  # fmt: skip
def test_a_job_that_fails_says_how(jobs, code, exit_code, reason):
    job = ended(jobs, jobs.start([code], "t").id)
    assert (job.state, job.exit_code, job.reason) == ("failed", exit_code, reason)


def test_a_program_that_is_not_there_fails(tmp_path):
    jobs = Jobs(tmp_path / "jobs", program=[str(tmp_path / "none")])
    job = ended(jobs, jobs.start(["x"], "t").id)
    assert job.state == "failed" and "No such file" in job.reason


def test_the_command_door_is_what_runs(tmp_path):
    jobs = Jobs(tmp_path / "jobs")
    job = ended(jobs, jobs.start(["no-such-command"], "t").id)
    assert (job.state, job.exit_code) == ("failed", 2)
    assert "no command 'no-such-command'" in job.reason


# ---------------------------------------------------------------- stopping


def test_cancelling_asks_first(jobs):
    code = """
import signal, sys, time
def save(*_):
    print('saved', flush=True)
    sys.exit(130)
signal.signal(signal.SIGINT, save)
print('here', flush=True)
time.sleep(600)
"""
    job = jobs.start([code], "t")
    until_it_says(jobs, job.id, "here")
    jobs.cancel(job.id, who="bob")
    job = ended(jobs, job.id)
    assert (job.state, job.exit_code) == ("cancelled", 130)
    assert jobs.log(job.id).splitlines() == ["here", "saved"]
    assert json.loads((jobs.folder / job.id / "cancel.json").read_text())["who"] == "bob"
    assert jobs.cancel(job.id) == job, "cancelled already"


def test_an_app_that_ignores_ctrl_c_has_jobs_that_do_not(jobs):
    """As one that was started behind `nohup ... &`: its children inherit that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        job = jobs.start([FOREVER], "t")
    finally:
        signal.signal(signal.SIGINT, before)
    until_it_says(jobs, job.id, "here")
    jobs.cancel(job.id)
    assert ended(jobs, job.id).exit_code == -signal.SIGINT


def test_cancelling_ends_who_will_not_listen(jobs):
    job = jobs.start([STUBBORN], "t")
    until_it_says(jobs, job.id, "here")
    assert jobs.cancel(job.id).cancelling
    job = ended(jobs, job.id)
    assert (job.state, job.exit_code, job.cancelling) == ("cancelled", -9, False)
    assert jobs.log(job.id).splitlines() == ["here", "no 2", "no 15"]


def test_cancelling_at_once(tmp_path):
    jobs = Jobs(tmp_path / "jobs", program=(sys.executable, "-c"), grace_s=(600, 600))
    job = jobs.start([STUBBORN], "t")
    until_it_says(jobs, job.id, "here")
    jobs.cancel(job.id)
    until_it_says(jobs, job.id, "no 2")
    jobs.cancel(job.id, now=True)
    job = ended(jobs, job.id)
    assert (job.state, job.exit_code) == ("cancelled", -9)


def test_a_job_that_finishes_although_it_was_to_stop_is_done(jobs):
    code = "import signal, sys\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(0))\n" + FOREVER
    job = jobs.start([code], "t")
    until_it_says(jobs, job.id, "here")
    jobs.cancel(job.id)
    assert ended(jobs, job.id).state == "done"


def test_nothing_of_a_job_outlives_it(jobs):
    """A child that it leaves behind, as a killed loader leaves its workers."""
    code = f"""
import subprocess, sys, os
child = subprocess.Popen([sys.executable, '-c', {FOREVER!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print('child', child.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    job = ended(jobs, jobs.start([code], "t").id)
    child = int(jobs.log(job.id).split()[-1])
    assert gone(identity(child)) and job.reason == "ended by SIGKILL: out of memory?"


# ---------------------------------------------------------------- the app goes, the job stays


def test_a_job_survives_its_app(jobs, tmp_path):
    """The app is killed; the next one finds the job running, and how it ended."""
    code = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from data.jobs import Jobs
jobs = Jobs({str(jobs.folder)!r}, 3, (sys.executable, "-c"))
print(jobs.start([{FOREVER!r}], "long").id, flush=True)
sys.stdin.read()
"""
    app = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    id = app.stdout.readline().strip()
    os.killpg(app.pid, signal.SIGKILL)  # with all that belongs to its terminal
    app.communicate()
    until_it_says(jobs, id, "here")
    assert [job.state for job in jobs.newest()] == ["running"] and jobs.get(id).ended is None
    jobs.cancel(id)
    assert ended(jobs, id).state == "cancelled"


def test_a_job_whose_processes_vanish_is_lost(jobs):
    job = jobs.start([FOREVER], "t")
    until_it_says(jobs, job.id, "here")
    told = about(jobs, job.id)
    os.kill(told["supervisor"]["pid"], signal.SIGKILL)
    job = ended(jobs, job.id)  # the command goes down with it
    assert job.state == "lost" and "without a word" in job.reason
    assert job.began <= job.ended <= time.time() + 1 and job.exit_code is None
    assert jobs.cancel(job.id).state == "lost" and jobs.log(job.id) == "here"


def test_a_command_left_alone_still_runs_and_can_be_stopped(jobs):
    job = jobs.start([STUBBORN], "t")
    until_it_says(jobs, job.id, "here")
    told = about(jobs, job.id)
    os.kill(told["supervisor"]["pid"], signal.SIGKILL)
    assert gone(told["supervisor"])
    assert jobs.get(job.id).state == "running"
    jobs.cancel(job.id)
    assert ended(jobs, job.id).state == "lost"


def test_a_number_that_passed_to_another_process_is_not_the_job(jobs):
    job = ended(jobs, jobs.start(["pass"], "t").id)
    path = jobs.folder / job.id / "job.json"
    told = about(jobs, job.id)
    for name in ("ended", "state", "exit_code"):
        del told[name]
    other = subprocess.Popen([sys.executable, "-c", FOREVER], stdout=subprocess.PIPE)
    other.stdout.readline()
    told["supervisor"]["pid"] = told["process"]["pid"] = other.pid
    path.write_text(json.dumps(told))
    assert jobs.get(job.id).state == "lost" and jobs.cancel(job.id).state == "lost"
    assert other.poll() is None, "nobody else is harmed"
    told["supervisor"] = identity(other.pid)
    path.write_text(json.dumps(told))
    assert jobs.get(job.id).state == "running"
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    assert Path(f"/proc/{other.pid}/stat").exists() and jobs.get(job.id).state == "lost"
    assert not send(told["supervisor"], signal.SIGTERM)
    other.communicate()
    assert not send(told["supervisor"], signal.SIGTERM)


def test_without_proc_the_start_is_asked_of_ps(monkeypatch):
    if subprocess.run("ps -o lstart= -p 1", shell=True, capture_output=True).returncode:
        pytest.skip("there is no ps here")
    monkeypatch.setattr(processes, "_started", processes._started_by_ps)
    own = identity(os.getpid())
    assert runs(own) and not runs({**own, "started": "before"}) and not runs(identity(2**22 + 1))


# ---------------------------------------------------------------- several


def test_no_more_than_so_many_at_once(jobs):
    jobs.at_most = 2
    first = jobs.start([FOREVER], "first")
    jobs.start([FOREVER], "second")
    with pytest.raises(WorkbenchError, match=r"2 jobs are running already \(second, first\)"):
        jobs.start(["pass"], "third")
    jobs.cancel(first.id, now=True)
    ended(jobs, first.id)
    third = jobs.start(["pass"], "third")
    assert [job.title for job in jobs.newest()] == ["third", "second", "first"]
    assert ended(jobs, third.id).state == "done"


def test_two_sessions_cannot_both_take_the_last_place(jobs):
    jobs.at_most, told = 1, []

    def session() -> None:
        try:
            told.append(jobs.start([FOREVER], "t").state)
        except WorkbenchError as error:
            told.append(str(error)[:16])

    threads = [threading.Thread(target=session) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == ["1 jobs are runni"] * 3 + ["running"]


def a_record(jobs: Jobs, id: str, **more) -> None:
    folder = jobs.folder / id
    folder.mkdir(parents=True)
    told = {"id": id, "title": id, "arguments": [], "began": float(id[9:15]), "who": ""}
    (folder / "job.json").write_text(json.dumps({**told, **more}))


def test_old_jobs_are_cleaned_away_and_running_ones_never(jobs):
    for second in range(10, 15):
        a_record(jobs, f"20261121-1000{second}-abcd", state="done", ended=1.0, exit_code=0)
    running = jobs.start([FOREVER], "t")
    (jobs.folder / "model_worker.json").write_text("{}")
    (jobs.folder / "20261121-100000-0000").mkdir()  # an app was killed while it started one
    os.utime(jobs.folder / "20261121-100000-0000", (0, 0))
    assert jobs.clean(keep=2) == 4
    assert [job.id[-7:-5] for job in jobs.newest()[1:]] == ["14", "13"]
    assert sorted(p.name for p in jobs.folder.iterdir() if p.is_dir())[0].startswith(
        "20261121-100013"
    )
    with pytest.raises(WorkbenchError, match="is still running: cancel it first"):
        jobs.remove(running.id)
    jobs.remove("20261121-100014-abcd")
    assert len(jobs.newest()) == 2 and (jobs.folder / "model_worker.json").exists()


def test_what_is_no_job_is_refused(jobs):
    assert jobs.newest() == []
    for id in ("", "..", "../x", "20261121-100000-abcd", "20261121-100000-abcd/../.."):
        with pytest.raises(WorkbenchError, match="there is no job"):
            jobs.get(id)
    a_record(jobs, "20261121-100000-abcd")
    (jobs.folder / "20261121-100000-abcd" / "job.json").write_text("{")
    assert jobs.newest()[0].state == "lost"


# ---------------------------------------------------------------- progress and log

TRACKED = """
import sys
sys.path.insert(0, {repository!r})
from commands.progress import track
for phase in ("reading", "writing"):
    for step in track(range(1, 6), phase, lambda n: (n, 5), lambda n: f"step {{n}}"):
        pass
print("done")
"""


def test_what_a_command_tracks_is_the_jobs_progress(jobs):
    job = ended(jobs, jobs.start([TRACKED.format(repository=str(REPOSITORY))], "t").id)
    assert job.state == "done", jobs.log(job.id)
    told = job.progress
    assert (told.phase, told.done, told.total, told.note) == ("writing", 5, 5, "step 5")
    assert told.eta is None and told.elapsed >= 0
    rows = (jobs.folder / job.id / "progress.jsonl").read_text().splitlines()
    phases = [(json.loads(row)["phase"], json.loads(row)["done"]) for row in rows]
    assert phases == [("reading", 1), ("reading", 5), ("writing", 1), ("writing", 5)]


def test_outside_a_job_nothing_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(JOB_FOLDER, raising=False)
    monkeypatch.chdir(tmp_path)
    assert list(progress.track(range(3), "t", lambda n: (n, 3))) == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv(JOB_FOLDER, str(tmp_path / "gone"))
    assert list(progress.track(range(3), "t", lambda n: (n, 3))) == [0, 1, 2], "work goes on"


def test_the_time_left_is_by_the_rate_of_this_phase(jobs, monkeypatch):
    """A resumed run begins at 100 of 400: 60 more in 30 s, so 240 more in 120 s, 5 s ago."""
    now = time.time()
    job = jobs.start([FOREVER], "t")
    path = jobs.folder / job.id / "progress.jsonl"
    line = {"phase": "p", "done": 160, "total": 400, "note": "", "time": now - 5}
    path.write_text(json.dumps({**line, "began": now - 35, "first": 100}) + '\n{"phase": "torn')
    monkeypatch.setattr(jobs_file.time, "time", lambda: now)
    told = jobs.get(job.id).progress
    assert told.eta == pytest.approx(115, abs=0.1) and told.elapsed == pytest.approx(35, abs=0.1)
    path.write_text(json.dumps({**line, "began": now - 35, "first": 160}) + "\n")
    assert jobs.get(job.id).progress.eta is None


def test_lines_come_each_second_at_first_and_more_rarely_later(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(jobs_file.time, "time", lambda: clock[0])
    teller = Teller(tmp_path, "p")
    for second in range(0, 7200):
        clock[0] = second + 0.5
        teller.tell(lambda at=second: (at, 7200), lambda: "")
    times = [json.loads(row)["time"] for row in teller.path.read_text().splitlines()]
    gaps = [later - before for before, later in zip(times, times[1:], strict=False)]
    assert gaps[0] == 1 and max(gaps) == 10 and len(times) < 1100


def test_the_log_is_what_a_terminal_would_show(jobs):
    code = r"print('10 %\r50 %\r100 %\n\x1b[31mred\x1b[0m \x07\u202e\n' + 'x\n' * 100 + 'last\n\n')"
    job = ended(jobs, jobs.start([code], "t").id)
    assert jobs.log(job.id, 2) == "x\nlast"
    assert jobs.log(job.id, 500).splitlines()[:2] == ["100 %", "red \u202e"]
    (jobs.folder / job.id / "log.txt").write_bytes(b"a\xff" + b"y" * 200_000)
    assert len(jobs.log(job.id)) == 1 << 16

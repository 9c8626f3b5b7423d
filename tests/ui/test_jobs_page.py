"""The Jobs page: forms that cannot start nonsense, and jobs in every state they can be in."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from types import SimpleNamespace

import pytest

import run
from data.access import Person
from data.errors import WorkbenchError
from data.jobs import THEN, Jobs
from data.workspace import Workspace
from tests.ui.small_store import write_sae
from ui.keys import jobs as keys
from ui.pages.panels import job_actions, job_fields
from ui.pages.panels.job_catalogue import EXPORT, FORMS, TRAIN

FOREVER = "import time; print('here', flush=True); time.sleep(600)"
HOSTILE = "<script>alert(1)</script> **bold** \u202eevil"


def html_of(test) -> str:
    return "\n".join(element.value for element in test.get("html"))


def words_of(test) -> str:
    kinds = (test.title, test.subheader, test.markdown, test.caption, test.info, test.error,
             test.warning, test.success)  # fmt: skip
    return re.sub(r"\\(.)", r"\1", "\n".join(str(e.value) for kind in kinds for e in kind))


def codes_of(test) -> str:
    return "\n".join(code.value for code in test.code)


def button(test, label: str):
    return next(found for found in test.button if found.label == label)


def a_record(root, id: str = "20261121-100000-abcd", log: str = "", **more) -> str:
    """A job as it lies on the disk once it is over."""
    folder = root / "jobs" / id
    folder.mkdir(parents=True)
    told = {"id": id, "title": "Evaluate small", "arguments": ["evaluate", "small"], "who": "ada",
            "began": 1e9, "state": "done", "ended": 1e9 + 65, "exit_code": 0,
            "peak_bytes": 3 << 20}  # fmt: skip
    (folder / "job.json").write_text(json.dumps({**told, **more}))
    (folder / "log.txt").write_text(log)
    return id


@pytest.fixture
def long_job(workspace):
    """start(arguments, title) -> a job that does not end by itself, with progress."""
    jobs = Jobs(workspace / "jobs", 3, (sys.executable, "-c"), grace_s=(0.3, 0.3))

    def start(title: str = "Harvest small"):
        job = jobs.start([FOREVER], title, who="ada")
        line = {"phase": "harvest", "done": 30, "total": 120, "note": "encode", "first": 0,
                "time": time.time(), "began": time.time() - 10}  # fmt: skip
        (jobs.folder / job.id / "progress.jsonl").write_text(json.dumps(line) + "\n")
        return job

    yield start
    for job in jobs.newest():
        jobs.cancel(job.id, now=True)


# ------------------------------------------------------------------ forms


@pytest.mark.parametrize("command", FORMS)
def test_defaults_are_those_of_the_command(command):
    """As the dataclass has them, so that the page starts what the terminal would."""
    module, name, _ = run.COMMANDS[command]
    made = getattr(__import__(module, fromlist=[name]), name)
    theirs = {field.name: field.default for field in dataclasses.fields(made)}
    for field in FORMS[command].fields:
        assert field.name in theirs, field.name
        if field.positional:
            assert theirs[field.name] is dataclasses.MISSING
            continue
        ours = ",".join(field.default) if field.kind == "several" else field.default
        assert ours == theirs[field.name], field.name


def test_choices_are_those_of_the_program():
    from commands import export
    from data.features_store import KINDS
    from sae import formats, presets
    from ui.pages.panels import job_catalogue as ours

    assert ours.PRESETS == tuple(presets.PRESETS)
    assert ours.ARCHITECTURES == ("jumprelu", *list(presets.PRESETS["small_budget"])[1:])
    assert ours.READERS == ("auto", *formats.READERS)
    assert (ours.WEIGHT_FORMATS, ours.FEATURE_FORMATS) == (export.WEIGHTS, export.FEATURES)
    assert ours.EXAMPLE_KINDS == KINDS


def filled(form, **values) -> dict:
    return {field.name: field.default for field in form.fields} | values


def test_only_what_differs_becomes_an_argument():
    values = filled(TRAIN, name="mine", d_sae=256, l0=16.0, pack=True, set=["lr=0.1", "seed=3"])
    assert job_fields.arguments(TRAIN, values, "/ws") == [
        "train", "mine", "--d-sae", "256", "--l0", "16", "--set", "lr=0.1", "seed=3", "--pack",
        "--workspace", "/ws",
    ]  # fmt: skip
    effects = FORMS["effects"]
    values = filled(effects, name="mine", kinds=["top", "active"])
    assert job_fields.arguments(effects, values, "/ws")[2:4] == ["--kinds", "top,active"]


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"name": None}, "Name is missing"),
        ({"d_sae": 0}, "Features is 0: give a number from 1"),
        ({"tokens": 5}, "at least 1,000"),
        ({"arch": "cnn"}, "'cnn' is none of jumprelu"),
        ({"name": "--replace"}, "may not begin with"),
        ({"text": "--workspace=/"}, "may not begin with"),
        ({"lm": THEN}, "cannot be used"),
        ({"set": ["lr=1", "--workspace"]}, "cannot be used"),
        ({"site": "a\nb"}, "cannot be used"),
    ],
)
def test_nonsense_is_refused_in_words(values, fault):
    found = job_fields.faults(TRAIN, filled(TRAIN, **{"name": "mine", **values}))
    assert len(found) == 1 and fault in found[0]


def test_the_commands_take_what_the_forms_give():
    """tyro reads back what was typed."""
    import tyro

    given = {"train": {"name": "mine", "l0": 16.5, "set": ["lr=0.1"], "chat": True},
             "harvest": {"name": "mine", "tokens": 5000, "resume": True},
             "effects": {"name": "mine", "kinds": ["top", "active"], "batch": 3},
             "verify": {"name": "mine", "examples": 3, "statistics": "yes"},
             "import": {"path": "x/y:z", "site": "resid_post.3"}}  # fmt: skip
    for command, values in given.items():
        module, name, _ = run.COMMANDS[command]
        form = FORMS[command]
        words = job_fields.arguments(form, filled(form, **values), "/ws")
        made = tyro.cli(getattr(__import__(module, fromlist=[name]), name), args=words[1:],
                        config=(tyro.conf.PositionalRequiredArgs,))  # fmt: skip
        for field, value in values.items():
            value = ",".join(value) if field == "kinds" else value
            value = tuple(value) if isinstance(value, list) else value
            assert getattr(made, field) == value, (command, field)


@pytest.mark.parametrize("command", FORMS)
def test_every_form_opens(built, open_page, command):
    test = open_page(built, "jobs", new=command)
    assert not test.exception and not test.error
    assert FORMS[command].title in [title.value for title in test.subheader]
    if command not in ("train", "import"):
        assert f"python run.py {command} small" in codes_of(test)


def test_forms_of_an_empty_workspace(tmp_path, open_page):
    test = open_page(tmp_path / "new", "jobs", new="harvest")
    assert not test.exception and "train or import one first" in words_of(test)
    test = open_page(tmp_path / "new", "jobs", new="train")
    assert button(test, "Start training").disabled and "Name is missing" in words_of(test)


def test_a_form_says_what_is_wrong_and_shows_the_command_when_nothing_is(built, open_page):
    test = open_page(built, "jobs", new="train")
    test.text_input(key="jobs.train.name").set_value("small").run()
    assert "saes/small exists already" in words_of(test)
    assert button(test, "Start training").disabled
    test.text_input(key="jobs.train.name").set_value("../up").run()
    assert "cannot be a name" in words_of(test)
    test.text_input(key="jobs.train.name").set_value("next").run()
    assert not button(test, "Start training").disabled
    assert "python run.py train next --workspace" in codes_of(test)
    assert "python run.py evaluate next" in codes_of(test), "steps that follow"
    test.text_input(key="jobs.train.text").set_value("/no/such/text").run()
    assert "no file or folder /no/such/text" in words_of(test)


def test_effects_need_a_harvest(tmp_path, open_page):
    write_sae(tmp_path, "bare")
    for command in ("effects", "explain", "verify"):
        test = open_page(tmp_path, "jobs", new=command)
        assert not test.exception and "bare has no features yet" in words_of(test)


# ------------------------------------------------------------------ jobs


def test_no_job_yet_teaches(built, open_page):
    test = open_page(built, "jobs")
    assert not test.exception and "No job was started here yet" in words_of(test)


def test_a_real_job_is_started_from_the_page_and_found_again_after_a_restart(workspace, open_page):
    test = open_page(workspace, "jobs", new="export")
    test.selectbox(key="jobs.export.format").select("jsonl").run()
    assert "--out WORKSPACE/exports/small-jsonl" in codes_of(test)
    button(test, EXPORT.verb).click().run()
    assert not test.exception and not test.error
    id = test.query_params["job"]
    id = id[0] if isinstance(id, list) else id
    jobs = Jobs(workspace / "jobs")
    deadline = time.monotonic() + 60
    while jobs.get(id).state == "running":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert jobs.get(id).state == "done", jobs.log(id)
    assert (workspace / "exports" / "small-jsonl" / "feature.jsonl").is_file()
    again = open_page(workspace, "jobs", job=id)  # a new session of a new process's caches
    assert not again.exception and "Export small as jsonl" in words_of(again)
    assert "wrote " in codes_of(again) and ">done<" in html_of(again)
    listed = again.dataframe[0].value
    assert list(listed["title"]) == ["Export small as jsonl"] and listed["state"][0] == "✓ done"


def test_a_done_job_leads_to_what_it_made(workspace, open_page):
    id = a_record(workspace, arguments=["train", "small", THEN, "harvest", "small"])
    test = open_page(workspace, "jobs", job=id)
    button(test, "Open small").click().run()
    assert not test.exception and test.title[0].value == "Features"
    assert test.query_params["sae"] == "small"


def test_a_running_job_shows_how_far_it_is_and_can_be_cancelled(workspace, open_page, long_job):
    job = long_job()
    test = open_page(workspace, "jobs", job=job.id)
    assert not test.exception and not test.error
    drawn = html_of(test)
    assert 'aria-valuenow="25"' in drawn and "30 of 120" in drawn and "left in this phase" in drawn
    assert "by ada" in drawn and "here" in codes_of(test)
    assert test.dataframe[0].value["progress"][0] == 0.25
    assert "Stop this job?" in words_of(test)
    button(test, "Yes, stop it").click().run()
    jobs = Jobs(workspace / "jobs")
    deadline = time.monotonic() + 30
    while jobs.get(job.id).state == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    test.run()
    assert ">cancelled<" in html_of(test) and not test.exception


def test_a_failed_job_says_why_and_starts_again(workspace, open_page, monkeypatch):
    id = a_record(workspace, state="failed", exit_code=2, reason="exit code 2: no such text",
                  log="reading\nTextError: no such text\n")  # fmt: skip
    started = []
    monkeypatch.setattr(Jobs, "start", lambda self, words, title, who: started.append(
        (words, title)) or self.get(id))  # fmt: skip
    test = open_page(workspace, "jobs", job=id)
    assert "It failed: exit code 2: no such text" in words_of(test)
    assert "TextError" in codes_of(test) and "1 min 5 s" in html_of(test)
    button(test, "Start again").click().run()
    assert started == [(["evaluate", "small"], "Evaluate small")]


def test_a_lost_job_says_so(workspace, open_page):
    id = a_record(workspace)
    path = workspace / "jobs" / id / "job.json"
    told = json.loads(path.read_text())
    for key in ("state", "ended", "exit_code"):
        del told[key]
    path.write_text(json.dumps(told))
    test = open_page(workspace, "jobs", job=id)
    assert not test.exception and "It is lost: its process is gone" in words_of(test)
    assert test.dataframe[0].value["state"][0] == "? lost"


def test_a_stopped_training_can_go_on(workspace, open_page, monkeypatch):
    (workspace / "saes" / ".next.unfinished" / "checkpoint").mkdir(parents=True)
    words = ["train", "next", "--tokens", "5000", THEN, "evaluate", "next"]
    id = a_record(workspace, state="cancelled", exit_code=130, arguments=words)
    started = []
    monkeypatch.setattr(Jobs, "start", lambda self, words, title, who: started.append(words)
                        or self.get(id))  # fmt: skip
    test = open_page(workspace, "jobs", job=id)
    button(test, "Start again").click().run()
    assert started.pop()[:5] == ["train", "next", "--tokens", "5000", "--replace"]
    button(test, "Go on").click().run()
    assert started == [["train", "next", "--tokens", "5000", "--resume", THEN, "evaluate", "next"]]


def test_hostile_titles_names_and_logs_stay_text(workspace, open_page):
    log = "\x1b[31mred\x1b[0m <script>alert(1)</script> \u202eturned\x07\n"
    id = a_record(workspace, title=HOSTILE, who="<img src=x onerror=alert(1)>", log=log,
                  state="failed", exit_code=1, reason="exit code 1: <b>x</b> [a](b)")  # fmt: skip
    line = {"phase": "<i>p</i>", "done": 1, "total": 2, "note": "<u>n</u>", "first": 0,
            "time": 1.0, "began": 0.0}  # fmt: skip
    (workspace / "jobs" / id / "progress.jsonl").write_text(json.dumps(line))
    test = open_page(workspace, "jobs", job=id)
    assert not test.exception
    drawn = html_of(test).split("</style>")[-1]
    for tag in ("<script", "<img", "<i>", "<u>"):
        assert tag not in drawn
    assert "\u202e" not in codes_of(test) + words_of(test) + drawn
    assert "red <script>alert(1)</script> �turned" in codes_of(test), "a code block shows text"
    assert r"\*\*bold\*\*" in "".join(str(s.value) for s in test.subheader)


def test_jobs_are_removed_and_cleaned_up(workspace, open_page):
    first = a_record(workspace)
    a_record(workspace, "20261121-100001-abcd")
    test = open_page(workspace, "jobs", job=first)
    button(test, "Remove").click().run()
    assert not test.exception and len(test.dataframe[0].value) == 1
    button(test, "Yes, delete them").click().run()
    assert not list((workspace / "jobs").glob("2026*"))


@pytest.mark.parametrize("params", [{"job": "../../etc"}, {"new": "rm"}])
def test_a_bad_address_is_refused_and_offers_a_way_out(built, open_page, params):
    test = open_page(built, "jobs", **params)
    (value,) = params.values()
    assert not test.exception and value in re.sub(r"\\(.)", r"\1", test.error[0].value)
    button(test, "Show all jobs").click().run()
    assert not test.error


def test_a_job_that_is_gone_is_said_to_be(built, open_page):
    test = open_page(built, "jobs", job="20261121-100000-abcd")
    assert not test.exception and "there is no job" in words_of(test)


def test_the_address_goes_there_and_back():
    view = keys.JobsView(job="20261121-100000-abcd", new="train")
    assert keys.read_view(keys.write_view(view), FORMS) == view
    assert keys.write_view(keys.JobsView()) == {}


# ------------------------------------------------------------------ who may, and what is shown


def a_shell(root, role: str = "researcher", **more) -> SimpleNamespace:
    workspace = Workspace.open(root)
    return SimpleNamespace(person=Person("eve", role), workspace=workspace, **more)


def test_only_researchers_start_and_stop_jobs(tmp_path):
    job_actions.refuse_others(a_shell(tmp_path))
    with pytest.raises(WorkbenchError, match="Only researchers"):
        job_actions.refuse_others(a_shell(tmp_path, "rater"))


def test_no_folder_of_the_server_reaches_who_is_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(job_actions, "local", lambda shell: False)
    told = job_actions.shown(
        a_shell(tmp_path), f"wrote {tmp_path}/saes/a by {job_actions.__file__}"
    )
    assert told == "wrote WORKSPACE/saes/a by PROGRAM/ui/pages/panels/job_actions.py"
    line = job_actions.command_line(
        a_shell(tmp_path), ["harvest", "a", "--workspace", str(tmp_path)]
    )
    assert line == "python run.py harvest a --workspace WORKSPACE"


def test_command_lines_are_quoted(tmp_path):
    words = ["train", "a", "--text", "my texts; rm -rf x", THEN, "evaluate", "a"]
    assert job_actions.command_line(a_shell(tmp_path), words) == (
        "python run.py train a --text 'my texts; rm -rf x' && \\\npython run.py evaluate a"
    )


def test_what_is_kept_when_a_job_is_stopped(tmp_path):
    job = Jobs(tmp_path / "jobs").get(a_record(tmp_path, arguments=["train", "x"]))
    assert "go on later" in job_actions.kept(job)
    other = Jobs(tmp_path / "jobs").get(a_record(tmp_path, "20261121-100002-abcd"))
    assert "Nothing of it is kept" in job_actions.kept(other)
    assert job_actions.subjects(job) == [("train", "x")]


def test_a_stopped_demo_starts_anew_instead_of_being_refused(tmp_path):
    demo = ["demo", "--no-app", "--workspace", str(tmp_path)]
    job = Jobs(tmp_path / "jobs").get(a_record(tmp_path, state="cancelled", arguments=demo))
    assert job_actions.again(a_shell(tmp_path), job) == demo
    (tmp_path / "saes" / ".demo.unfinished" / "checkpoint").mkdir(parents=True)
    assert job_actions.can_resume(a_shell(tmp_path), job) is None
    assert job_actions.again(a_shell(tmp_path), job) == [*demo, "--replace"]

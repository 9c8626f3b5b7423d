"""What people come for, in a real browser on a real (tiny) workspace: find, walk, try, compare,
keep, run. No request leaves the machine, nothing is written to the console, and axe finds nothing
serious in our own markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import TimeoutError

import run
from bench.browser import CHROMIUM, opened
from bench.wire import ROOT, served
from interp.live import LiveModel
from tests import tiny

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
SMALL = "--d-sae 64 --l0 4 --tokens 106500 --corpus-tokens 4000 --context 16 --site resid_post.1"
PATIENCE_MS = 90_000
OWN = "/_stcore/"  # Streamlit looks for its own endpoints below a page's address first


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Iterator[Path]:
    """Two SAEs of one tiny model, evaluated, harvested, explained, compared."""
    folder = tmp_path_factory.mktemp("journeys")
    model = tiny.save(folder / "model")
    text = tiny.write_jsonl(folder / "text.jsonl", tiny.sentences(150))
    where = f"--workspace {folder / 'workspace'}"
    common = f"--lm {model} --text {text} {SMALL} --device cpu {where}"
    commands = [
        f"train one {common}", f"train two {common} --arch topk", f"evaluate one {where}",
        f"evaluate two {where}", f"harvest one {where}", f"harvest two {where}",
        f"neighbours one {where}", f"neighbours one --other two {where}", f"explain one {where}",
        f"score one {where}",
    ]  # fmt: skip
    for command in commands:
        assert run.main(command.split()) == 0, command
    yield folder / "workspace"
    LiveModel(folder / "workspace", "one").stop()


class Watched:
    """A page, and all that went wrong on it."""

    def __init__(self, page, address: str) -> None:
        self.page, self.address = page, address
        self.problems: list[str] = []
        page.on("console", self._spoke)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", self._asked)

    def _spoke(self, message) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.problems.append(message.text)

    def _asked(self, request) -> None:
        if not request.url.startswith((self.address, self.address.replace("http", "ws"),
                                       "data:", "blob:")):  # fmt: skip
            self.problems.append(f"asked for {request.url}")

    def open(self, where: str, heading: str | re.Pattern):
        self.page.goto(f"{self.address}/{where}")
        return self.heading(heading)

    def settle(self) -> None:
        """Waits until the script has ended and its page stands there."""
        self.page.wait_for_selector('[data-test-script-state="notRunning"]')
        self.page.wait_for_timeout(300)

    def press(self, key: str, heading: str) -> None:
        """Presses a key until its page is there: one that comes before the page listens is lost."""
        wanted = self.page.get_by_role("heading", level=1, name=heading, exact=True)
        for _ in range(4):
            self.settle()
            self.page.keyboard.press(key)
            try:
                wanted.wait_for(timeout=PATIENCE_MS / 4)
                return
            except TimeoutError:
                continue
        raise AssertionError(f"{key} did not lead to {heading}")

    def heading(self, text: str | re.Pattern):
        found = self.page.get_by_role("heading", level=1).filter(has_text=text).first
        found.wait_for(timeout=PATIENCE_MS)
        return found


@contextmanager
def watching(browser, address: str) -> Iterator[Watched]:
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(PATIENCE_MS)
    watched = Watched(page, address)
    yield watched
    assert watched.problems == []
    page.close()


def test_find_walk_try_compare_keep_run(real, tmp_path):
    log = tmp_path / "log.txt"
    with opened() as browser:
        with served(ROOT / "app.py", log, "--workspace", str(real)) as address:
            with watching(browser, address) as seen:
                find_by_filter(seen)
                walk_by_keyboard(seen)
                bookmark(seen)
                try_a_sentence(seen)
                compare(seen)
                start_a_job(seen)
        with (
            served(ROOT / "app.py", log, "--workspace", str(real)) as address,
            watching(browser, address) as seen,
        ):
            still_there(seen)
    assert "Traceback" not in log.read_text()


def find_by_filter(seen: Watched) -> None:
    """Typing in the filter narrows the table and the address; a row opens its feature."""
    seen.open("features?sae=one&sort=max&dir=desc", "Features")
    page = seen.page
    page.get_by_text("64 of 64 features", exact=False).first.wait_for()
    page.get_by_placeholder("text, or #12 for feature 12").fill("#7")
    page.keyboard.press("Enter")
    page.wait_for_url("**id=7**")
    page.get_by_text("1 of 64 features", exact=False).first.wait_for()
    table = page.get_by_test_id("stDataFrame")
    table.wait_for()
    seen.settle()
    table.click(position={"x": 30, "y": 55})
    seen.heading("Feature 7")


def walk_by_keyboard(seen: Watched) -> None:
    """Ten features on, in the order of the list one came from; then one back."""
    page = seen.page
    seen.open("feature?sae=one&f=3", "Feature 3")
    page.locator(".ex").first.wait_for()
    for n in range(4, 14):
        seen.press("ArrowRight", f"Feature {n}")
    seen.press("ArrowLeft", "Feature 12")
    assert "f=12" in page.url


def bookmark(seen: Watched) -> None:
    page = seen.page
    seen.settle()
    page.keyboard.press("b")
    page.get_by_role("button", name="Bookmarked").wait_for()


def still_there(seen: Watched) -> None:
    """After the server was started anew."""
    seen.open("feature?sae=one&f=12", "Feature 12")
    seen.page.get_by_role("button", name="Bookmarked").wait_for()
    seen.open("lists?sae=one&part=bookmarks", "Lists")
    seen.page.get_by_text(re.compile("^1 bookmarked")).first.wait_for()


def try_a_sentence(seen: Watched) -> None:
    """The model loads in its worker; then the strip stands there, and a token can be chosen."""
    page = seen.page
    seen.open("prompt?sae=one", "Prompt")
    page.get_by_role("textbox").first.fill(tiny.sentences(1)[0][:60])
    page.keyboard.press("Control+Enter")
    start = page.get_by_role("button", name=re.compile("start the model|load the model", re.I))
    strip = page.locator(".ts [role=button]").first
    start.or_(strip).first.wait_for()
    if start.count():
        start.first.click()
    strip.wait_for()
    strip.click()
    page.wait_for_url("**tok=**")


def compare(seen: Watched) -> None:
    page = seen.page
    seen.open("compare?sae=one&a=one:7&b=two:9", "Compare")
    page.get_by_text("Feature 7", exact=False).first.wait_for()
    page.get_by_text("Feature 9", exact=False).first.wait_for()
    seen.open("compare?sae=one&mode=sae&a=one&b=two", "Compare")
    page.get_by_text("FVE", exact=False).first.wait_for()


def start_a_job(seen: Watched) -> None:
    """A job is started from its form, and its end is seen without a reload."""
    page = seen.page
    seen.open("jobs?sae=one", "Jobs")
    page.get_by_text("Neighbours", exact=True).first.click()
    page.get_by_role("button", name="Find neighbours").first.click()
    page.wait_for_url("**job=**")
    page.get_by_text(re.compile(r"^done", re.I)).first.wait_for()


SERIOUS = """() => axe.run(document, {resultTypes: ["violations"]}).then(found =>
    found.violations.filter(v => ["serious", "critical"].includes(v.impact)).map(v => ({
        rule: v.id,
        nodes: v.nodes.map(n => n.target.join(" ") + " :: " + n.html.slice(0, 160))})))"""
# Streamlit's own markup: (rule, what the element's address or markup holds).
CHROME = (
    ("listitem", '<li class="st-emotion-cache'),  # of the sidebar: sections between <ul> and <li>
    ("list", '<ul data-testid="stSidebarNavItems"'),
    ("color-contrast", '<span class="token'),  # colours of a code block
)
LOOKED_AT = (
    ("?sae=one", "one"), ("features?sae=one", "Features"), ("feature?sae=one&f=5", "Feature 5"),
    ("compare?sae=one&a=one:7&b=two:9", "Compare"), ("prompt?sae=one", "Prompt"),
    ("autointerp?sae=one", "Auto-interp"), ("lists?sae=one", "Lists"), ("jobs?sae=one", "Jobs"),
    ("settings?sae=one", "Data and settings"), ("rate", "Rate"), ("study", "Study results"),
)  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.soak)])
def test_axe_finds_nothing_serious_in_our_markup(real, tmp_path, scheme):
    axe = Path(pytest.importorskip("axe_playwright_python").__file__).with_name("axe.min.js")
    log, faults = tmp_path / "log.txt", []
    with (
        served(ROOT / "app.py", log, "--workspace", str(real)) as address,
        opened() as browser,
    ):
        context = browser.new_context(
            viewport={"width": 1440, "height": 1000}, color_scheme=scheme, bypass_csp=True
        )
        for where, heading in LOOKED_AT:
            seen = Watched(context.new_page(), address)
            seen.open(where, heading)
            seen.settle()
            seen.page.wait_for_timeout(1000)  # what is drawn anew fades in
            seen.page.add_script_tag(path=str(axe))
            for fault in seen.page.evaluate(SERIOUS):
                for node in fault["nodes"]:
                    known = any(fault["rule"] == r and part in node for r, part in CHROME)
                    if not known:
                        faults.append(f"{where}: {fault['rule']}: {node}")
            seen.page.close()
    assert faults == [], "\n".join(faults)

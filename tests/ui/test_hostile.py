"""Hostile text in every place a person or a corpus can put it: shown as text, never as a page."""

from __future__ import annotations

import shutil

import pytest

from bench.browser import CHROMIUM, opened
from bench.wire import ROOT, served
from data.lab import open_lab
from data.records import Explanation, Score
from data.runs_store import write_results
from data.schema import open_root
from data.workspace import Workspace
from interp.live import LiveModel
from tests.ui.small_store import write_metrics, write_sae, write_store

SCRIPT = "<script>window.hacked = 1</script>"
IMAGE = "<img src=x onerror='window.hacked = 2'>"
LINK = "[click](javascript:window.hacked=3)"
MATHS = "$\\href{javascript:window.hacked=4}{x}$ :red[red] **bold** `code`"
BROKEN = "'\"></mark></div><svg onload=window.hacked=5>"
RIGHT_TO_LEFT = "a\u202egnp.exe\u202c \u2066b"
LONG = "x" * 4000
TEXTS = (SCRIPT, IMAGE, LINK, MATHS, BROKEN, RIGHT_TO_LEFT, LONG)
DOCUMENTS = tuple((f"letters/{text[:60]}-{n}.txt", f"{text} def {text}\n" * 3)
                  for n, text in enumerate(TEXTS))  # fmt: skip
FOUND = """() => [
    ...document.querySelectorAll(
        ".stMain img[src=x], .stMain script[src], .stMain svg[onload], a[href^='javascript:' i]"),
    ...[...document.querySelectorAll(".stApp *")].filter(
        e => [...e.attributes].some(a => /^on[a-z]+$/i.test(a.name))),
].map(e => e.outerHTML.slice(0, 200))"""
PAGES = (
    "overview", "features", "feature?f=5", "feature?f=5&kind=active&ctx=full&breaks=yes",
    "feature?f=1&kind=random&centre=yes", "prompt?text=%3Cscript%3Ewindow.hacked%3D6%3C/script%3E",
    "compare?a=hostile:5&b=hostile:6", "autointerp", "lists", "jobs", "settings",
    "features?q=%3Cimg%20src%3Dx%20onerror%3Dwindow.hacked%3D7%3E",
    "features?sort=%3Cimg%20src%3Dx%20onerror%3Dwindow.hacked%3D8%3E",
    "feature?f=%3Csvg%20onload%3Dwindow.hacked%3D9%3E",
    "overview?sae=%3Csvg%20onload%3Dwindow.hacked%3D9%3E",
)  # fmt: skip


def write_hostile(root) -> None:
    folder = write_sae(root, "hostile", 16)
    write_metrics(folder)
    corpus = write_store(folder / "features.duckdb", DOCUMENTS, 16)
    assert len(corpus.names) == len(TEXTS)
    run = root / "autointerp" / "hostile-1"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"sae": "hostile", "judge": "<b onclick=x>judge</b>"}')
    labels = [Explanation(f, IMAGE, TEXTS[f % len(TEXTS)], {}) for f in range(1, 16)]
    scores = [Score(f, "simulate", 0.5, 0.4, 0.6, 99, 9) for f in range(1, 16)]
    write_results(run / "results.duckdb", {"sae": "hostile"}, labels, scores)
    lab = open_lab(open_root(), Workspace.open(root))
    made = lab.create_list(IMAGE[:80], who=BROKEN[:60])
    for feature in range(1, 8):
        text = TEXTS[feature % len(TEXTS)]
        lab.note("hostile", feature, text, who=IMAGE)
        lab.label("hostile", feature, text[:300], who=LINK)
        lab.tag("hostile", feature, text[:40].strip(), who=SCRIPT)
        lab.bookmark("hostile", feature, True, who=SCRIPT)
        lab.add_to_list(made.id, [("hostile", feature)], who=SCRIPT)
    lab.save_filter(SCRIPT[:60], {"q": IMAGE}, who=SCRIPT)
    lab.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_no_text_becomes_part_of_a_page(tmp_path):
    root = tmp_path / "workspace"
    write_hostile(root)
    log = tmp_path / "log.txt"
    with served(ROOT / "app.py", log, "--workspace", str(root)) as address, opened() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 1400})
        spoken: list[str] = []
        page.on("dialog", lambda dialog: (spoken.append(dialog.message), dialog.dismiss()))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for where in PAGES:
            join = "&" if "?" in where else "?"
            chosen = "" if "sae=" in where else f"{join}sae=hostile"
            page.goto(f"{address}/{where}{chosen}")
            page.locator("h1, .stAlert").first.wait_for(timeout=90_000)
            page.wait_for_timeout(700)
            assert page.evaluate("window.hacked") is None, where
            assert page.evaluate(FOUND) == [], where
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{where} is {wide} pixels too wide"
        assert not spoken
        assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert "Traceback" not in log.read_text()
    LiveModel(root, "hostile").stop()  # the Prompt page started it
    shutil.rmtree(root)

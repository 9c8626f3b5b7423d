"""The app in a real browser: list, sort, open a feature, see its tokens."""

from __future__ import annotations

import pytest

from bench.browser import CHROMIUM, opened
from bench.wire import ROOT, served


def settle(page) -> None:
    """Waits until the script has ended and its address stands there."""
    page.wait_for_selector('[data-test-script-state="notRunning"]')
    page.wait_for_timeout(500)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_person_finds_a_feature(built, tmp_path):
    from playwright.sync_api import expect

    here = ("--workspace", str(built))
    log = tmp_path / "log.txt"
    with served(ROOT / "app.py", log, *here) as address, opened() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        problems: list[str] = []
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        missing: list[str] = []
        page.on("response", lambda r: missing.append(r.url) if r.status >= 400 else None)

        page.goto(address)
        expect(page.get_by_role("heading", name="small")).to_be_visible(timeout=90_000)
        page.get_by_role("link", name="Features", exact=True).click()
        expect(page.get_by_role("heading", name="Features")).to_be_visible(timeout=90_000)

        page.goto(f"{address}/features?sae=small&sort=max&dir=desc")
        table = page.get_by_test_id("stDataFrame")
        expect(table).to_be_visible(timeout=90_000)
        page.wait_for_timeout(1000)
        table.click(position={"x": 200, "y": 55})  # the first row
        heading = page.get_by_role("heading", name="Feature", exact=False).first
        expect(heading).to_contain_text("Feature ", timeout=90_000)
        page.wait_for_url("**/feature?*f=*", timeout=90_000)
        expect(page.locator("mark").first).to_be_visible(timeout=90_000)
        expect(page.locator(".hist").first).to_be_visible(timeout=90_000)

        shown = heading.inner_text()
        page.keyboard.press("ArrowRight")
        expect(heading).not_to_have_text(shown, timeout=90_000)
        page.wait_for_timeout(500)
        page.screenshot(path=str(tmp_path / "feature.png"))

    assert (tmp_path / "feature.png").stat().st_size > 20_000
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    # Streamlit looks for its own endpoints below a page's address first; nothing else may miss.
    assert all(url.rsplit("/", 1)[0].endswith("/_stcore") for url in missing)
    assert not [text for text in problems if "Failed to load resource" not in text]
    assert "Traceback" not in log.read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_back_leads_from_page_to_page_as_they_were_seen(built, tmp_path):
    """Streamlit writes two steps of history for one page; half-way steps were never seen."""
    from playwright.sync_api import expect

    here = ("--workspace", str(built))
    with served(ROOT / "app.py", tmp_path / "log.txt", *here) as address, opened() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(90_000)
        listed = f"{address}/features?sae=small&sort=max&dir=desc"
        page.goto(listed)
        page.get_by_role("button", name="Random feature").click()
        page.wait_for_url("**/feature?*f=*")
        expect(page.locator("mark").first).to_be_visible()
        settle(page)
        seen = page.url
        page.get_by_role("link", name="Jobs", exact=True).click()
        page.wait_for_url("**/jobs?sae=small")
        expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
        settle(page)
        page.go_back()
        page.wait_for_url(seen)
        expect(page.locator("mark").first).to_be_visible()
        settle(page)
        page.go_back()
        page.wait_for_url(listed)
        expect(page.get_by_role("heading", name="Features")).to_be_visible()

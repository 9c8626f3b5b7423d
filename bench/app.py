"""How quick the app is: at the server, in a browser, and with many people at once.

    python -m bench.app [--features 131072] [--workspace PATH --sae NAME] [--visitors 20]
                        [--no-browser] [--json]

Makes up a workspace of that size, or takes one that is there. Server: from the start of the script
to the last change of the page as one visitor sees it over the websocket, for features not asked for
before, for a page that holds one line of text and nothing else, and for the other pages. Browser:
Chromium, from the key Right to the next feature's number, and from the address to the page's
heading, each beside that blank page, turn by turn in the same run. Many: visitors at once, each
walking from feature to feature; every answer is checked to be of the feature that was asked for.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.browser import opened
from bench.made_up.workspace import NAME, workspace
from bench.wire import ROOT, Visitor, memory_mb, served

BLANK = """
import streamlit as st

def turn(by):
    st.query_params["n"] = str(int(st.query_params.get("n", "0")) + by)

st.title("Page " + st.query_params.get("n", "0"))
st.button("Next", on_click=turn, args=(1,), shortcut="Right")
"""
OTHERS = (
    ("overview", {}),
    ("features", {}),
    ("features", {"sort": "max", "dir": "desc", "size": "100"}),
    ("feature", {"f": "7", "ctx": "full", "breaks": "yes"}),
    ("prompt", {}),
    ("compare", {}),
    ("lists", {}),
    ("jobs", {}),
    ("settings", {}),
)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def at_the_server(address: str, blank: str, sae: str, n_features: int, steps: int) -> dict:
    """ms of scripts: feature to feature, the blank page, and the median of each other page."""
    draw = random.Random(0)
    with Visitor(blank) as visitor:
        visitor.open("")
        nothing = []
        for n in range(steps):
            visitor.stay({"n": str(n)})
            nothing.append(1000 * visitor.script_s)
    with Visitor(address) as visitor:
        visitor.open("feature", {"sae": sae, "f": "0"})
        walked = []
        for _ in range(steps):
            feature = str(draw.randrange(n_features))
            visitor.stay({"sae": sae, "f": feature})
            check(visitor, feature)
            walked.append(1000 * visitor.script_s)
        pages = {}
        for page, query in OTHERS:
            times = []
            for _ in range(6):
                visitor.open(page, {"sae": sae, **query})
                times.append(1000 * visitor.script_s)
            pages[f"{page} {query or ''}".strip()] = statistics.median(times[1:])
    return {
        "median": statistics.median(walked), "p95": percentile(walked, 0.95), "pages": pages,
        "blank_median": statistics.median(nothing), "blank_p95": percentile(nothing, 0.95),
    }  # fmt: skip


def check(visitor: Visitor, feature: str) -> None:
    """The answer is of the feature that was asked for, and no error."""
    heading = " ".join(visitor.texts("heading"))
    if feature not in heading.replace(",", "") or visitor.texts("exception"):
        raise SystemExit(f"asked for feature {feature}, got {heading!r} {visitor.texts('alert')}")


def many(address: str, sae: str, n_features: int, visitors: int, steps: int) -> dict:
    """ms as each of many visitors waits, who read one feature after another without a pause."""
    waits, faults = [], []

    def walk(seed: int) -> None:
        draw = random.Random(seed)
        try:
            with Visitor(address) as visitor:
                visitor.open("feature", {"sae": sae, "f": "0"})
                for _ in range(steps):
                    feature = str(draw.randrange(n_features))
                    waits.append(1000 * visitor.stay({"sae": sae, "f": feature}))
                    check(visitor, feature)
        except (SystemExit, Exception) as error:  # a thread must not fail in silence
            faults.append(str(error))

    began = time.perf_counter()
    threads = [threading.Thread(target=walk, args=(seed,)) for seed in range(1, visitors + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if faults:
        raise SystemExit(f"{len(faults)} of {visitors} visitors failed: {faults[0]}")
    return {
        "visitors": visitors, "median": statistics.median(waits), "p95": percentile(waits, 0.95),
        "pages_a_second": len(waits) / seconds,
    }  # fmt: skip


def in_a_browser(address: str, blank: str, sae: str, steps: int) -> dict:
    """Medians of differences to the blank page, ms for a key, seconds for a first view."""
    with opened() as browser:
        firsts = []
        for turn in range(6):
            ours = first_view(browser, f"{address}/feature?sae={sae}&f={turn + 10}", "Feature")
            theirs = first_view(browser, blank, "Page")
            if turn:  # the first pays for the process's imports
                firsts.append((ours, theirs))
        ours_page, their_page = browser.new_page(), browser.new_page()
        ours_page.goto(f"{address}/feature?sae={sae}&f=100")
        their_page.goto(blank)
        keys = [
            (1000 * key(ours_page, "Feature"), 1000 * key(their_page, "Page")) for _ in range(steps)
        ][2:]
    return {
        "key_ms": statistics.median(a for a, _ in keys),
        "blank_key_ms": statistics.median(b for _, b in keys),
        "key_above_ms": statistics.median(a - b for a, b in keys),
        "first_s": statistics.median(a for a, _ in firsts),
        "blank_first_s": statistics.median(b for _, b in firsts),
        "first_above_s": statistics.median(a - b for a, b in firsts),
    }


def first_view(browser, address: str, heading: str) -> float:
    """Seconds from entering the address to the heading, with nothing in the browser's cache."""
    context = browser.new_context()
    page = context.new_page()
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.locator("h1", has_text=heading).wait_for(timeout=60_000)
    seconds = time.perf_counter() - began
    context.close()
    return seconds


def key(page, heading: str) -> float:
    """Seconds from the key Right to another heading."""
    page.bring_to_front()
    title = page.locator("h1", has_text=heading)
    title.wait_for(timeout=60_000)
    page.wait_for_timeout(500)
    before = title.inner_text()
    return page.evaluate(
        """([before]) => new Promise(done => {
            const began = performance.now()
            const look = () => {
                const title = document.querySelector("h1")
                const now = title && title.innerText
                if (now && now !== before) done((performance.now() - began) / 1000)
                else requestAnimationFrame(look)
            }
            const press = {key: "ArrowRight", code: "ArrowRight", keyCode: 39, bubbles: true}
            document.body.dispatchEvent(new KeyboardEvent("keydown", press))
            look()
        })""",
        [before],
    )


@contextmanager
def the_workspace(args: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    if args.workspace is not None:
        yield args.workspace, args.sae
        return
    with tempfile.TemporaryDirectory() as folder:
        yield workspace(Path(folder), args.features), NAME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=131_072)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--sae", default="demo")
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with the_workspace(args) as (folder, sae), tempfile.TemporaryDirectory() as scratch:
        n = json.loads((folder / "saes" / sae / "cfg.json").read_text())["d_sae"]
        blank = Path(scratch) / "blank.py"
        blank.write_text(BLANK)
        logs = Path(scratch)
        with (
            served(ROOT / "app.py", logs / "app.log", "--workspace", str(folder)) as address,
            served(blank, logs / "blank.log") as other,
        ):
            result = {"features": n, "server": at_the_server(address, other, sae, n, args.steps)}
            result["memory_mb"] = {"one visitor": memory_mb(address)}
            if not args.no_browser:
                result["browser"] = in_a_browser(address, other, sae, max(8, args.steps // 4))
            result["many"] = many(address, sae, n, args.visitors, max(4, args.steps // 4))
            result["memory_mb"][f"{args.visitors} visitors"] = memory_mb(address)
    report(result)
    if args.json:
        print(json.dumps({"bench": "app", **result}))


def report(result: dict) -> None:
    server, crowd = result["server"], result["many"]
    lines = [
        ("feature to feature, server, median", server["median"], "ms", ""),
        ("feature to feature, server, 95th percentile", server["p95"], "ms", ""),
        ("blank page, server, median", server["blank_median"], "ms", ""),
        ("blank page, server, 95th percentile", server["blank_p95"], "ms", ""),
        *((f"page {name}", ms, "ms", "") for name, ms in server["pages"].items()),
        (f"{crowd['visitors']} at once, wait, median", crowd["median"], "ms", ""),
        (f"{crowd['visitors']} at once, wait, 95th percentile", crowd["p95"], "ms", ""),
        (f"{crowd['visitors']} at once, pages a second", crowd["pages_a_second"], "", ""),
        *((f"memory, {who}", mb, "MB", "") for who, mb in result["memory_mb"].items()),
    ]
    if "browser" in result:
        browser = result["browser"]
        lines += [
            ("browser, key to next feature", browser["key_ms"], "ms", ""),
            ("browser, key on a blank page", browser["blank_key_ms"], "ms", ""),
            ("browser, key above blank", browser["key_above_ms"], "ms", "aim 250"),
            ("browser, first view", browser["first_s"], "s", ""),
            ("browser, first view of a blank page", browser["blank_first_s"], "s", ""),
            ("browser, first view above blank", browser["first_above_s"], "s", "aim 0.5"),
        ]
    print(f"{result['features']:,} features")
    for name, value, unit, aim in lines:
        print(f"{name:<52}{value:>9.4g} {unit:<4}{aim}")


if __name__ == "__main__":
    main()

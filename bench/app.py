"""How long the server works for a page: the app's whole script, page by page.

    python -m bench.app [--workspace PATH] [--sae NAME] [--json]

Runs app.py in this process as Streamlit would (its own test driver), on a real workspace: `make
demo` makes one. The first run of a page pays for imports and caches; the median of the next ones is
what a click costs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

ROOT = Path(__file__).parent.parent
PAGES = (
    ("overview", {}),
    ("features", {}),
    ("features", {"sort": "score", "dir": "desc", "size": "100"}),
    ("feature", {"f": "7"}),
    ("feature", {"f": "7", "ctx": "full", "breaks": "yes"}),
    ("prompt", {}),
)


def measure(page: str, query: dict[str, str], sae: str, runs: int = 7) -> dict:
    """First and median script time of a page in ms."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    app._page_hash = calc_hash("" if page == "overview" else page)
    for key, value in ({"sae": sae} | query).items():
        app.query_params[key] = value
    times = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        app.run()
        times.append(1000 * (time.perf_counter() - began))
        if app.exception or app.error:
            raise SystemExit(f"{page} failed: {[e.value for e in (*app.exception, *app.error)]}")
    return {
        "page": page,
        "query": query,
        "first_ms": round(times[0]),
        "median_ms": round(statistics.median(times[1:])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path("workspace"))
    parser.add_argument("--sae", default="demo")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not (args.workspace / "saes" / args.sae / "features.duckdb").exists():
        raise SystemExit(f"no harvested SAE {args.sae} in {args.workspace}: run make demo first")
    sys.argv = ["app.py", "--workspace", str(args.workspace)]
    rows = [measure(page, query, args.sae) for page, query in PAGES]
    print(f"{'page':<10}{'first ms':>9}{'then ms':>9}  query")
    for row in rows:
        print(f"{row['page']:<10}{row['first_ms']:>9}{row['median_ms']:>9}  {row['query'] or ''}")
    if args.json:
        print(json.dumps({"bench": "app", "rows": rows}))


if __name__ == "__main__":
    main()

"""What the demo costs: time and peak memory of each of its steps, in a fresh workspace.

    python -m bench.demo [--json]

Each step runs as its own process, as a user would run it; memory is the step's peak resident set,
which counts the pages of the memory-mapped cache that it touched.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
STEPS = (
    ("train", "--l0 32 --d-sae 2048 --tokens 2e6 --corpus-tokens 1e6 --per-document 16"),
    ("evaluate", ""),
    ("harvest", ""),
    ("explain", ""),
    ("score", ""),
)


def measure(command: str, options: str, workspace: Path) -> dict:
    """One step: seconds, peak memory in MB."""
    arguments = [sys.executable, str(ROOT / "run.py"), command, "demo", *options.split()]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*arguments, "--workspace", str(workspace)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{command} failed:\n{output}")
    return {
        "step": command,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--workspace", type=Path, help="keep the results here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = args.workspace or Path(folder)
        rows = [measure(command, options, workspace) for command, options in STEPS]
        metrics = json.loads((workspace / "saes/demo/metrics.json").read_text())
    total = {
        "step": "all",
        "seconds": round(sum(r["seconds"] for r in rows), 1),
        "cpu_seconds": round(sum(r["cpu_seconds"] for r in rows), 1),
        "peak_mb": max(r["peak_mb"] for r in rows),
    }
    print(f"{'step':<10}{'seconds':>9}{'CPU s':>8}{'peak MB':>9}")
    for row in [*rows, total]:
        print(f"{row['step']:<10}{row['seconds']:>9}{row['cpu_seconds']:>8}{row['peak_mb']:>9}")
    if args.json:
        machine = {"cpus": os.cpu_count(), "machine": platform.machine()}
        print(json.dumps({"bench": "demo", "rows": rows, "total": total, **machine, **metrics}))


if __name__ == "__main__":
    main()

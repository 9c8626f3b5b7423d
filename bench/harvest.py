"""A harvest's time over that of the model's forward pass and one encoder product; its memory.

    python -m bench.harvest [--model demo|gpt2-small] [--tokens N] [--d-sae N] [--block B ...]
                            [--rounds R] [--threads T] [--sae FOLDER] [--json]
    python -m bench.harvest --model gpt2-small --peer sae_dashboard|delphi [--tokens N ...]

In turn, each in a process of its own, once its model and SAE are loaded:

    bare   the model up to the hooked layer on ready-made contexts, and x W_enc + b_enc in float32
           into memory used before
    whole  from text to a published features.duckdb, with every kind of example at default counts

Peak memory is what the process itself holds, its libraries and weights included: pages of the
memory-mapped activations, which the system takes back when it needs them, are not counted; what
DuckDB takes to write (up to its own limit) stands apart. The SAE
is made up (bench/subjects/made_up.py); --sae takes a trained one.

gpt2-small is that model's shape with random weights, and a vocabulary of its size learnt from the
text. --peer runs another library on the same model, SAE and contexts (bench/peers/), in turn with
ours, which begins with the text.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch, as run.py does

import argparse
import json
import multiprocessing
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from bench.subjects.made_up import Subject, gpt2_small, made_up_sae
from run import keep_freed_memory

ENCODED = 4_096  # rows of one product
PEERS = ("sae_dashboard", "delphi")
ROOT = Path(__file__).parent.parent
SIZES = {  # site, tokens, d_sae, L0
    "demo": ("resid_post.2", 1_000_000, 2_048, 32.0),
    "gpt2-small": ("resid_post.8", 200_000, 16_384, 64.0),
}


class Clock:
    """Wall and CPU seconds by phase."""

    def __init__(self) -> None:
        self.wall, self.cpu = Counter(), Counter()
        self._mark = time.perf_counter(), time.process_time()

    def lap(self, phase: str | None) -> None:
        """Counts the time since the last lap for `phase`; None for nothing."""
        now = time.perf_counter(), time.process_time()
        if phase is not None:
            self.wall[phase] += now[0] - self._mark[0]
            self.cpu[phase] += now[1] - self._mark[1]
        self._mark = now

    def seconds(self) -> dict[str, tuple[float, float]]:
        return {phase: (self.wall[phase], self.cpu[phase]) for phase in self.wall}


@contextmanager
def own_memory() -> Iterator[list[float]]:
    """The largest anonymous resident memory in MB, looked at 20 times a second; [0] of the list."""
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            status = Path("/proc/self/status").read_text()
            peak[0] = max(peak[0], int(status.split("RssAnon:")[1].split()[0]) / 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


# ---------------------------------------------------------------- what is measured


def whole(subject: Subject, block: int) -> dict:
    """Seconds by phase from text to a published store; peak memory; what came out."""
    from data.activations import ActivationCache, build_cache
    from data.features_store import write_features
    from interp.harvest import Harvest, HarvestConfig

    lm, sae = loaded(subject)
    with tempfile.TemporaryDirectory(dir=subject.folder) as folder, own_memory() as peak:
        out, scratch = Path(folder), Path(folder) / "scratch"
        scratch.mkdir()
        clock = Clock()
        for _ in build_cache(out, lm, subject.spec()):
            pass
        cache = ActivationCache(out)
        clock.lap("capture")
        harvest = Harvest(sae, cache, lm, HarvestConfig(block=block), scratch)
        for step in harvest:
            clock.lap(step.phase)
        clock.lap("examples")  # the tables of the last block
        tables = harvest.tables()
        clock.lap("logits")
        before_writing = peak[0]
        write_features(out / "features.duckdb", {"sae": "bench"}, tables)
        clock.lap("write")
        size = (out / "features.duckdb").stat().st_size
    facts = {"tokens": cache.n_rows, "l0": float(harvest.l0.mean()), "store_mb": size / 2**20}
    facts |= {"own_mb": before_writing, "writing_mb": peak[0]}
    return {"phases": clock.seconds(), **facts}


def bare(subject: Subject) -> dict:
    """Seconds of the forward pass and of the encoder product, over the same contexts."""
    from data.text import documents
    from data.tokens import ContextMaker

    lm, sae = loaded(subject)
    spec, clock = subject.spec(), Clock()
    maker = ContextMaker(lm.tokenizer, spec.rule, spec.tokens, 32)
    W, b = sae.W_enc.detach(), sae.b_enc.detach()
    z = torch.empty(ENCODED, sae.d_sae)
    waiting = torch.empty(0, sae.d_in)
    for contexts in maker(documents(spec.text, spec.text_field)):
        ids = torch.from_numpy(contexts.ids.astype(np.int64))
        clock.lap(None)
        x = lm.capture(ids, [subject.site])[subject.site]
        clock.lap("forward")
        kept = x[torch.from_numpy(maker.mask.keep_ids(contexts))]
        waiting = torch.cat([waiting, kept.float()])
        if len(waiting) >= ENCODED:
            rows, waiting = waiting[:ENCODED].clone(), waiting[ENCODED:]
            clock.lap(None)
            torch.addmm(b, rows, W, out=z)
            clock.lap("product")
    return {"phases": clock.seconds()}


def contexts(subject: Subject, out: Path) -> None:
    """Writes the token ids of all contexts, [n, context]."""
    from data.lm import load
    from data.text import documents
    from data.tokens import ContextMaker

    spec = subject.spec()
    maker = ContextMaker(load(subject.lm, "cpu").tokenizer, spec.rule, spec.tokens, 32)
    np.save(out, np.concatenate([c.ids for c in maker(documents(spec.text, spec.text_field))]))


def peer(subject: Subject, name: str) -> dict:
    """Seconds by phase of another library; what it wrote, in MB, and of how many features."""
    with tempfile.TemporaryDirectory(dir=subject.folder) as folder:
        out = Path(folder)
        apart(contexts, subject, out / "ids.npy")
        job = {
            "lm": subject.lm,
            "sae": str(subject.sae),
            "site": subject.site,
            "ids": str(out / "ids.npy"),
            "ignore": [0],  # the one special token: begins contexts and fills them
            "threads": subject.threads,
            "out": folder,
        }
        (out / "job.json").write_text(json.dumps(job))
        python = ROOT / ".peers" / name / "bin/python"
        if not python.exists():
            raise SystemExit(f"{python} is not there: make peers")
        command = [str(python), "-m", f"bench.peers.{name}", str(out / "job.json")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
        return json.loads((out / "facts.json").read_text())


def loaded(subject: Subject):
    """The language model and the SAE."""
    from data import lm as language_models
    from sae import formats

    keep_freed_memory()
    if subject.threads:
        torch.set_num_threads(subject.threads)
    lm = language_models.load(subject.lm, "cpu")
    return lm, formats.load(subject.sae)[0].requires_grad_(False)


def apart(work, *arguments):
    """work(*arguments) in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


# ---------------------------------------------------------------- the tables


def total(measured: dict, clock: int) -> float:
    """0: wall seconds of all phases; 1: CPU seconds."""
    return sum(seconds[clock] for seconds in measured["phases"].values())


def report(wholes: list[dict], bares: list[dict], block: int) -> dict:
    """Prints medians over the rounds; returns them."""
    n = wholes[0]["tokens"]
    print(f"\n{n:,} tokens, L0 {wholes[0]['l0']:.1f}, blocks of {block:,} features")
    print(f"{'median of rounds':<20}{'wall s':>9}{'CPU s':>9}")
    row = {"tokens": n, "l0": wholes[0]["l0"], "block": block}
    for kind, rounds in (("bare", bares), ("whole", wholes)):
        for phase in rounds[0]["phases"]:
            both = [statistics.median(r["phases"][phase][c] for r in rounds) for c in (0, 1)]
            print(f"  {phase:<18}{both[0]:>9.1f}{both[1]:>9.1f}")
            row[phase] = both
        both = [statistics.median(total(r, c) for r in rounds) for c in (0, 1)]
        print(f"{kind:<20}{both[0]:>9.1f}{both[1]:>9.1f}")
        row[kind] = both
    ratios = [[total(w, c) / total(b, c) for w, b in zip(wholes, bares, strict=True)]
              for c in (0, 1)]  # fmt: skip
    row["ratio"] = [statistics.median(r) for r in ratios]
    print(f"{'whole / bare':<20}{row['ratio'][0]:>9.2f}{row['ratio'][1]:>9.2f}   rounds, CPU: "
          + " ".join(f"{r:.2f}" for r in ratios[1]))  # fmt: skip
    row |= {name: max(w[name] for w in wholes) for name in ("own_mb", "writing_mb")}
    row["store_mb"] = wholes[0]["store_mb"]
    print(f"peak memory {row['own_mb']:,.0f} MB, writing included {row['writing_mb']:,.0f} MB; "
          f"store {row['store_mb']:,.0f} MB", flush=True)  # fmt: skip
    return row


def compare(ours: list[dict], theirs: list[dict], subject: Subject) -> dict:
    """Prints medians over the rounds of ours and of the peer; returns them."""
    print(f"\n{ours[0]['tokens']:,} tokens, {subject.d_sae:,} features, L0 {ours[0]['l0']:.1f}")
    print(f"{'median of rounds':<20}{'wall s':>9}{'CPU s':>9}")
    row = {"tokens": ours[0]["tokens"], "l0": ours[0]["l0"], "library": theirs[0]["library"]}
    for name, rounds in (("ours", ours), (row["library"], theirs)):
        for phase in rounds[0]["phases"]:
            both = [statistics.median(r["phases"][phase][c] for r in rounds) for c in (0, 1)]
            print(f"  {phase:<18}{both[0]:>9.1f}{both[1]:>9.1f}")
            row[f"{name} {phase}"] = both
        row[name] = [statistics.median(total(r, c) for r in rounds) for c in (0, 1)]
        print(f"{name:<20}{row[name][0]:>9.1f}{row[name][1]:>9.1f}")
    row["ratio"] = [
        statistics.median(total(t, c) / total(o, c) for t, o in zip(theirs, ours, strict=True))
        for c in (0, 1)
    ]
    row["written_mb"] = ours[0]["store_mb"], theirs[0]["mb"]
    row["features"] = theirs[0]["features"]
    print(f"{'theirs / ours':<20}{row['ratio'][0]:>9.2f}{row['ratio'][1]:>9.2f}")
    print(f"written: {row['written_mb'][0]:,.0f} and {row['written_mb'][1]:,.0f} MB; "
          f"features with examples there: {row['features']:,}", flush=True)  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SIZES, default="demo")
    parser.add_argument("--tokens", type=float)
    parser.add_argument("--d-sae", type=int)
    parser.add_argument("--block", type=int, nargs="+", default=[16_384])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--sae", type=Path, help="folder of a trained SAE (model demo)")
    parser.add_argument("--peer", choices=PEERS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.peer and args.model == "demo":
        parser.error("the peers' drivers read a GPT-2: add --model gpt2-small")
    site, tokens, d_sae, l0 = SIZES[args.model]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subject = Subject(
            folder, "demo" if args.model == "demo" else str(folder / "lm"),
            (args.sae or folder / "sae").resolve(), site, int(args.tokens or tokens),
            args.d_sae or d_sae, l0, args.threads,
        )  # fmt: skip
        if args.model == "gpt2-small":
            apart(gpt2_small, folder / "lm")
        if args.sae is None:
            apart(made_up_sae, subject)
        rows = []
        for block in args.block:
            other = (
                (lambda: peer(subject, args.peer)) if args.peer else lambda: apart(bare, subject)
            )
            rounds = [(other(), apart(whole, subject, block)) for _ in range(args.rounds)]
            others, wholes = (list(column) for column in zip(*rounds, strict=True))
            if args.peer:
                rows.append(compare(wholes, others, subject))
            else:
                rows.append(report(wholes, others, block))
    if args.json:
        machine = {"cpus": os.cpu_count(), "threads": args.threads or torch.get_num_threads()}
        about = {"model": args.model, "d_sae": subject.d_sae, **machine}
        print(json.dumps({"bench": "harvest", **about, "rows": rows}))


if __name__ == "__main__":
    main()

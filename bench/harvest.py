"""A harvest's time over that of the model's forward pass and one encoder product; its memory.

    python -m bench.harvest [--model demo|gpt2-small] [--tokens N] [--d-sae N] [--block B ...]
                            [--rounds R] [--threads T] [--sae FOLDER] [--peer sae_dashboard] [--json]

In turn, each in a process of its own, once its model and SAE are loaded:

    bare   the model up to the hooked layer on ready-made contexts, and x W_enc + b_enc in float32
           into memory used before
    whole  from text to a published features.duckdb, with every kind of example at default counts

Peak memory is what the process itself holds, its libraries and weights included: pages of the
memory-mapped activations, which the system takes back when it needs them, are not counted. The SAE
is made up, for speed does not depend on what it learnt: directions of tokens, thresholds such that
the i-th commonest feature fires with a frequency of about i^-0.8. --sae takes a trained one.

gpt2-small is that model's shape with random weights, and a vocabulary of its size learnt from the
text. --peer runs another library's harvest of the same model, SAE and contexts (bench/peers/).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch, as run.py does

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from run import keep_freed_memory

TEXT = "python:stdlib"
PER_DOCUMENT = 16  # contexts of one file at most, as the demo takes them
CALIBRATION_ROWS = 65_536  # of the thresholds
ENCODED = 4_096  # rows of one product
SIZES = {  # site, tokens, d_sae, L0
    "demo": ("resid_post.2", 1_000_000, 2_048, 32.0),
    "gpt2-small": ("resid_post.8", 200_000, 16_384, 64.0),
}


@dataclass(frozen=True)
class Setting:
    """What is harvested; everything lies in `folder`."""

    folder: Path
    lm: str  # demo, or a model folder
    sae: Path
    site: str
    tokens: int
    d_sae: int
    l0: float
    threads: int

    def spec(self):
        from data.activations import ActivationSpec
        from data.tokens import ContextRule

        rule = ContextRule(per_document=PER_DOCUMENT)
        return ActivationSpec(self.lm, self.site, TEXT, tokens=self.tokens, rule=rule)


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


def whole(setting: Setting, block: int) -> dict:
    """Seconds by phase from text to a published store; peak memory; what came out."""
    from data.activations import ActivationCache, build_cache
    from data.features_store import write_features
    from interp.harvest import Harvest, HarvestConfig

    lm, sae = loaded(setting)
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder, own_memory() as peak:
        out, scratch = Path(folder), Path(folder) / "scratch"
        scratch.mkdir()
        clock = Clock()
        for _ in build_cache(out, lm, setting.spec()):
            pass
        cache = ActivationCache(out)
        clock.lap("capture")
        harvest = Harvest(sae, cache, lm, HarvestConfig(block=block), scratch)
        for step in harvest:
            clock.lap(step.phase)
        clock.lap("examples")  # the tables of the last block
        tables = harvest.tables()
        clock.lap("logits")
        write_features(out / "features.duckdb", {"sae": "bench"}, tables)
        clock.lap("write")
        size = (out / "features.duckdb").stat().st_size
    facts = {"tokens": cache.n_rows, "l0": float(harvest.l0.mean()), "store_mb": size / 2**20}
    return {"phases": clock.seconds(), "own_mb": peak[0], **facts}


def bare(setting: Setting) -> dict:
    """Seconds of the forward pass and of the encoder product, over the same contexts."""
    from data.text import documents
    from data.tokens import ContextMaker

    lm, sae = loaded(setting)
    spec, clock = setting.spec(), Clock()
    maker = ContextMaker(lm.tokenizer, spec.rule, spec.tokens, 32)
    W, b = sae.W_enc.detach(), sae.b_enc.detach()
    z = torch.empty(ENCODED, sae.d_sae)
    waiting = torch.empty(0, sae.d_in)
    for contexts in maker(documents(spec.text, spec.text_field)):
        ids = torch.from_numpy(contexts.ids.astype(np.int64))
        clock.lap(None)
        x = lm.capture(ids, [setting.site])[setting.site]
        clock.lap("forward")
        kept = x[torch.from_numpy(maker.mask.keep_ids(contexts))]
        waiting = torch.cat([waiting, kept.float()])
        if len(waiting) >= ENCODED:
            rows, waiting = waiting[:ENCODED].clone(), waiting[ENCODED:]
            clock.lap(None)
            torch.addmm(b, rows, W, out=z)
            clock.lap("product")
    return {"phases": clock.seconds()}


def loaded(setting: Setting):
    """The language model and the SAE."""
    from data import lm as language_models
    from sae import formats

    keep_freed_memory()
    if setting.threads:
        torch.set_num_threads(setting.threads)
    lm = language_models.load(setting.lm, "cpu")
    return lm, formats.load(setting.sae)[0].requires_grad_(False)


def apart(work, *arguments):
    """work(*arguments) in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


# ---------------------------------------------------------------- models and SAEs made up


def gpt2_small(folder: Path) -> None:
    """A model folder of GPT-2 small's shape, its weights random as at the start of training."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from data.text import documents

    end = "<|endoftext|>"
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=50_257, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator((d.text for d in documents(TEXT)), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=end, eos_token=end)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)


def made_up(setting: Setting) -> None:
    """Saves a JumpReLU SAE whose features fire on tokens like one they are named after."""
    from data.activations import ActivationCache, build_cache
    from data.lm import load
    from sae import formats
    from sae.models import JumpReLUSAE

    lm, generator = load(setting.lm, "cpu"), torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        spec = replace(setting.spec(), tokens=CALIBRATION_ROWS)
        for _ in build_cache(Path(folder), lm, spec):
            pass
        x = torch.from_numpy(np.array(ActivationCache(Path(folder)).x))
    mean = x.mean(0)
    named_after = torch.randint(0, len(x), (setting.d_sae,), generator=generator)
    directions = x[named_after] - mean + 0.3 * x.std() * torch.randn(
        setting.d_sae, x.shape[1], generator=generator
    )  # fmt: skip
    directions = torch.nn.functional.normalize(directions)
    frequency = torch.arange(1, setting.d_sae + 1).double() ** -0.8
    frequency *= setting.l0 / frequency.sum()
    sae = JumpReLUSAE(x.shape[1], setting.d_sae)
    with torch.no_grad():
        sae.W_enc.copy_(directions.T)
        sae.W_dec.copy_(directions)
        sae.b_dec.copy_(mean)
        sae.b_enc.copy_(-(mean @ sae.W_enc))
        for i in range(0, setting.d_sae, 1_024):
            pre = (x @ sae.W_enc[:, i : i + 1_024] + sae.b_enc[i : i + 1_024]).sort(dim=0).values
            rank = ((1 - frequency[i : i + 1_024].clamp(max=0.5)) * (len(x) - 1)).long()
            sae.threshold[i : i + 1_024] = pre.gather(0, rank[None])[0].clamp_min(1e-3)
    setting.sae.mkdir()
    block = int(setting.site.rpartition(".")[2])
    names = {"model_name": setting.lm, "hook_name": f"blocks.{block}.hook_resid_post"}
    formats.save(sae, setting.sae, names | {"context_size": 256, "prepend_bos": True})


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
    row["own_mb"] = max(w["own_mb"] for w in wholes)
    row["store_mb"] = wholes[0]["store_mb"]
    print(f"peak memory {row['own_mb']:,.0f} MB, store {row['store_mb']:,.0f} MB", flush=True)
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
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    site, tokens, d_sae, l0 = SIZES[args.model]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        setting = Setting(
            folder, "demo" if args.model == "demo" else str(folder / "lm"),
            (args.sae or folder / "sae").resolve(), site, int(args.tokens or tokens),
            args.d_sae or d_sae, l0, args.threads,
        )  # fmt: skip
        if args.model == "gpt2-small":
            apart(gpt2_small, folder / "lm")
        if args.sae is None:
            apart(made_up, setting)
        rows = []
        for block in args.block:
            rounds = [(apart(bare, setting), apart(whole, setting, block))
                      for _ in range(args.rounds)]  # fmt: skip
            bares, wholes = (list(column) for column in zip(*rounds, strict=True))
            rows.append(report(wholes, bares, block))
    if args.json:
        machine = {"cpus": os.cpu_count(), "threads": args.threads or torch.get_num_threads()}
        about = {"model": args.model, "d_sae": setting.d_sae, **machine}
        print(json.dumps({"bench": "harvest", **about, "rows": rows}))


if __name__ == "__main__":
    main()

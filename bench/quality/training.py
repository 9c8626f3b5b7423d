"""One run: trains an SAE of ours or a peer's on the same batches, measures it, makes its line.

In: a Run and the rows of its data set. Out: the line of results. A peer trains in its own process
and environment; its weights become our JumpReLU SAE on raw activations, measured by the same code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.peers.common import Job
from bench.quality.arms import ARMS, BATCH, DATA, Peer, Run
from bench.quality.rows import Rows
from interp.fidelity import Evaluation
from sae.config import Refused, shape_for
from sae.metrics import Metrics
from sae.models import SAE, JumpReLUSAE, to_raw, unit_decoder
from sae.sparse import decode_sparse, encode_sparse
from sae.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
LOSS_TOKENS = 16_384  # held-out tokens with the SAE spliced into the language model
PEER_WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def perform(run: Run, rows: Rows) -> dict:
    """Trains and measures; a run that diverged gives a line with `error` and no measures."""
    began = time.perf_counter()
    head = asdict(run) | {"bench": "quality", "id": run.id, "recipe": run.recipe}
    try:
        sae, facts = (_peer if isinstance(ARMS[run.arm], Peer) else _ours)(run, rows)
        _refuse_not_finite(sae)
    except Refused as error:
        return head | {"error": str(error), "seconds": round(time.perf_counter() - began, 1)}
    measures = {"calibrate": _on(sae, rows.choose), "heldout": _on_heldout(sae, rows)}
    seconds = round(time.perf_counter() - began, 1)
    return head | facts | measures | {"seconds": seconds, "python": sys.version.split()[0]}


def python_of(peer: Peer) -> Path:
    """The interpreter that `make peers` sets up for a library."""
    return ROOT / ".peers" / peer.library / "bin" / "python"


def _ours(run: Run, rows: Rows) -> tuple[SAE, dict]:
    config = run.config()
    train = rows.train
    shape = shape_for(train.shape[1], DATA[run.data].d_sae, config)
    trainer = Trainer(train, shape, config, calibrate=rows.fit)
    began = time.perf_counter()
    for _ in trainer:
        pass
    ms = 1000 * (time.perf_counter() - began) / config.n_steps
    facts = {"library": "ours", "torch": torch.__version__, "ms_per_step": round(ms, 2)}
    return trainer.sae(), facts | {"settings": asdict(config)}


def _peer(run: Run, rows: Rows) -> tuple[SAE, dict]:
    peer, d_sae = ARMS[run.arm], DATA[run.data].d_sae
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            rows=str(rows.train_file), out=folder, d_sae=d_sae, batch=BATCH, steps=run.steps,
            seed=run.seed, lr=run.lr, l0=run.l0, setting=run.knob, recipe=run.loss,
        )  # fmt: skip
        file = Path(folder, "job.json")
        file.write_text(json.dumps(asdict(job)))
        command = [str(python_of(peer)), "-m", f"bench.peers.{peer.library}", str(file)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if process.returncode:
            raise SystemExit(f"{run} failed:\n{process.stderr[-3000:]}")
        weights = load_file(Path(folder, "weights.safetensors"))
        facts = json.loads(Path(folder, "facts.json").read_text())
    sae = raw_jumprelu(weights, facts["scale"], facts.pop("pre_encoder_bias"))
    facts["ms_per_step"] = round(facts["ms_per_step"], 2)
    return sae, facts


@torch.no_grad()
def raw_jumprelu(weights: dict[str, Tensor], scale: float, pre_encoder_bias: bool) -> SAE:
    """A peer's weights for rows (r - centre) / scale -> our SAE on raw activations r."""
    d_in, d_sae = weights["W_enc"].shape
    sae = JumpReLUSAE(d_in, d_sae).requires_grad_(False)
    for name in PEER_WEIGHTS:
        getattr(sae, name).copy_(weights[name])
    return unit_decoder(to_raw(sae, scale, weights["centre"], pre_encoder_bias))


def _refuse_not_finite(sae: SAE) -> None:
    if not all(bool(torch.isfinite(weight).all()) for weight in sae.parameters()):
        raise Refused("the weights are no longer finite")


def _on(sae: SAE, x: Tensor) -> dict[str, float]:
    """L0 and FVE on raw rows [n, d_in]."""
    metrics = Metrics(sae.d_in, sae.d_sae)
    for some in x.split(8192):
        code = encode_sparse(sae, some)
        metrics.update(some, decode_sparse(sae, code, some), code)
    result = metrics.result()
    return {"l0": result["l0"], "fve": result["fve"]}


def _on_heldout(sae: SAE, rows: Rows) -> dict[str, float | None]:
    """The reported measures, all on held-out documents; dead: share of features without firing."""
    evaluation = Evaluation(sae, rows.cache, rows.lm, rows.heldout, LOSS_TOKENS)
    for _ in evaluation:
        pass
    names = ("l0", "fve", "gamma", "high_freq_10", "ce", "delta_loss", "loss_recovered")
    found = {name: evaluation.result[name] for name in names}
    return found | {"dead": evaluation.result["dead"] / sae.d_sae}

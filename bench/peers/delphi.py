"""delphi's cache of activations, and the examples it makes of it; run by its interpreter.

    PYTHONPATH=. .peers/delphi/bin/python -m bench.peers.delphi JOB.json

In:  a job that bench/harvest.py writes: a GPT-2 folder, an SAE in SAELens's layout, contexts of
     token ids. Out: the cache's files in the job's folder, and facts.json.

Its defaults: 32 contexts at once, 5 files; 40 examples of a feature to explain and 50 to score, as
many not activating, each 32 tokens wide; features with fewer than 200 examples are left out. Its
loaders take only SAEs of its own libraries, so the encoder is given as the function it asks for.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from delphi.config import CacheConfig, ConstructorConfig, SamplerConfig
from delphi.latents import LatentCache, LatentDataset
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from run import keep_freed_memory


def encoder(folder: str):
    """JumpReLU: activations [..., d_in] -> features [..., d_sae], dense as the cache wants them."""
    w = load_file(Path(folder) / "sae_weights.safetensors")

    def encode(x: torch.Tensor) -> torch.Tensor:
        pre = x @ w["W_enc"] + w["b_enc"]
        return pre.mul_(pre > w["threshold"])

    return encode


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    keep_freed_memory()
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    out, hookpoint = Path(job["out"]), f"h.{job['site'].rpartition('.')[2]}"
    model = AutoModel.from_pretrained(job["lm"], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(job["lm"])
    encode = encoder(job["sae"])
    tokens = torch.from_numpy(np.load(job["ids"])).long()
    config = CacheConfig(cache_ctx_len=tokens.shape[1], n_tokens=tokens.numel())
    marks = [(time.perf_counter(), time.process_time())]
    cache = LatentCache(model, {hookpoint: encode}, config.batch_size)
    cache.run(config.n_tokens, tokens)
    cache.save_splits(config.n_splits, out)
    cache.save_config(out, config, job["lm"])
    marks.append((time.perf_counter(), time.process_time()))
    dataset = LatentDataset(
        out, SamplerConfig(), ConstructorConfig(), tokenizer, modules=[hookpoint]
    )
    features = sum(1 for _ in dataset)
    marks.append((time.perf_counter(), time.process_time()))
    phases = {
        name: [end - begin for begin, end in zip(marks[i], marks[i + 1], strict=True)]
        for i, name in enumerate(("cache", "examples"))
    }
    facts = {
        "library": f"eai-delphi {version('eai-delphi')}",
        "phases": phases,
        "mb": sum(p.stat().st_size for p in (out / hookpoint).iterdir()) / 2**20,
        "features": features,
        "torch": torch.__version__,
    }
    (out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()

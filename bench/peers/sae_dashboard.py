"""SAEDashboard's own pages of every feature; run by its interpreter.

    PYTHONPATH=. .peers/sae_dashboard/bin/python -m bench.peers.sae_dashboard JOB.json

In:  a job that bench/harvest.py writes: a GPT-2 folder, an SAE in SAELens's layout, contexts of
     token ids, those to leave out. Out: features.html in the job's folder, and facts.json.

Its defaults: 256 features and 64 contexts at once, 20 top sequences and 5 in each of 10 intervals.
cache_dir is given, as its Neuronpedia runner does: without one the model runs again for every 256
features.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sae_dashboard.data_writing_fns import save_feature_centric_vis
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner
from sae_lens import SAE, HookedSAETransformer
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from run import keep_freed_memory


def hooked_gpt2(folder: str) -> HookedSAETransformer:
    """As its from_pretrained_no_processing would, which takes only models of its own list."""
    source = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    shape = source.config
    config = HookedTransformerConfig(
        n_layers=shape.n_layer,
        d_model=shape.n_embd,
        n_heads=shape.n_head,
        d_head=shape.n_embd // shape.n_head,
        n_ctx=shape.n_positions,
        d_vocab=shape.vocab_size,
        act_fn=shape.activation_function,
        eps=shape.layer_norm_epsilon,
        normalization_type="LN",
        device="cpu",
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = HookedSAETransformer(config, tokenizer=tokenizer)
    weights = convert_gpt2_weights(source, config)
    options = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    model.load_and_process_state_dict(weights, **dict.fromkeys(options, False))
    return model.eval()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    keep_freed_memory()
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    out = Path(job["out"])
    model = hooked_gpt2(job["lm"])
    sae = SAE.load_from_disk(job["sae"], device="cpu")
    tokens = torch.from_numpy(np.load(job["ids"])).long()
    marks = [(time.perf_counter(), time.process_time())]
    config = SaeVisConfig(
        hook_point=sae.cfg.metadata.hook_name,
        features=range(sae.cfg.d_sae),
        ignore_tokens=set(job["ignore"]),
        cache_dir=out / "activations",
    )
    data = SaeVisRunner(config).run(encoder=sae, model=model, tokens=tokens)
    marks.append((time.perf_counter(), time.process_time()))
    save_feature_centric_vis(data, out / "features.html")
    marks.append((time.perf_counter(), time.process_time()))
    phases = {
        name: [end - begin for begin, end in zip(marks[i], marks[i + 1], strict=True)]
        for i, name in enumerate(("data", "page"))
    }
    facts = {
        "library": f"sae-dashboard {version('sae-dashboard')}",
        "phases": phases,
        "mb": sum(p.stat().st_size for p in out.glob("*.html")) / 2**20,
        "features": len(data.feature_data_dict),
        "torch": torch.__version__,
    }
    (out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()

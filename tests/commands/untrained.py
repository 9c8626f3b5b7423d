"""A workspace with SAEs that nobody trained: random weights, and all that `train` records.

In:  a folder, sites of a tiny model. Out: the workspace; commands find the SAEs in it by name.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from data import lm as language_models
from data.tokens import ContextRule, mask_rule
from data.workspace import Workspace
from sae import formats
from tests import tiny

RULE = ContextRule(context=16)


def workspace(folder: Path, sites: dict[str, str]) -> Workspace:
    """sites: name of an SAE -> where it reads. One model folder and one text for all."""
    model = str(tiny.save(folder / "model"))
    text = str(tiny.write_jsonl(folder / "text.jsonl", tiny.sentences(150)))
    made = Workspace.open(folder / "workspace")
    lm = language_models.load(model, "cpu")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, tiny.VOCAB, (40, 16), generator=generator)
    for name, site in sites.items():
        x = lm.capture(ids, [site])[site].flatten(0, 1)
        record = {
            "lm": model,
            "lm_weights": lm.fingerprint,
            "dtype": "float32",
            "site": site,
            "text": text,
            "text_field": "text",
            "corpus_tokens": 4000,
            "rule": asdict(RULE),
            "mask": asdict(mask_rule(lm.tokenizer, RULE, 1e3)),
        }
        with made.new_sae(name) as part:
            sae = tiny.random_sae(x.numpy(), 32, share=0.2)
            formats.save(sae, part, {"workbench": record})
    return made

"""A workspace with one made-up SAE of any size, for what the app does with many features.

In:  a folder and a number of features. Out: the folder, filled: cfg.json and features.duckdb.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bench.made_up.feature_store import FULL, MadeUp, Plan
from data.features_store import write_features

NAME = "made-up"
D_IN = 768


def workspace(folder: Path, features: int, documents: int = 4_000) -> Path:
    """Fills `folder` and returns it; about a minute and 2 GB at 131,072 features."""
    sae = folder / "saes" / NAME
    sae.mkdir(parents=True)
    about = {"site": "resid_post.6", "model_name": "made-up", "text": "made-up"}
    config = {"architecture": "jumprelu", "d_in": D_IN, "d_sae": features, "metadata": about}
    (sae / "cfg.json").write_text(json.dumps(config))
    (sae / "sae_weights.safetensors").write_bytes(b"none")  # opened by nothing here
    plan = Plan(features, 64, FULL, documents)
    made = MadeUp(plan)
    meta = {
        "sae": NAME, "model": "made-up", "site": "resid_post.6", "text": "made-up",
        "tokens": int(made.lengths.sum()), "documents": documents, "context": plan.context,
        "d_in": D_IN, "d_sae": features, "masks": ["bos"], "seed": plan.seed,
        "hist_edges": (2.0 ** np.linspace(-10, 10, 161)).tolist(),
        "pre_edges": np.linspace(-3, 3, 101).tolist(), "pre_tokens": 100_000,
        "position_edges": [0, 1, 2, 4, 8, 16, 32, 64, 128, 256], "position_tokens": [1] * 10,
    }  # fmt: skip
    write_features(sae / "features.duckdb", meta, made.tables())
    return folder

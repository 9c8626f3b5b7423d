"""`train`: activations of a language model in, a sparse autoencoder out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Train:
    """Train a sparse autoencoder on a language model's activations."""

    name: str  # of the SAE; it becomes workspace/saes/NAME
    lm: str = "demo"  # demo, a model folder, or a hub id
    site: str = "resid_post.2"  # resid_post.L, mlp_out.L, attn_z.L or hook:PATH:input|output
    text: str = (
        "python:stdlib"  # a file, a folder, hf:NAME[:SPLIT], python:stdlib, python:installed
    )
    text_field: str = "text"  # the column of JSONL, Parquet and hub data sets
    arch: str = "jumprelu"  # architecture
    d_sae: int = 2048  # number of features
    l0: float | None = None  # wanted active features per token (default 32; small_budget)
    l0_coefficient: float | None = None  # lambda of lambda * L0 (deepmind)
    tokens: float = 2e6  # activations to train on; passes over the corpus repeat
    corpus_tokens: float | None = None  # tokens to read from the text (default: as `tokens`)
    preset: str = "small_budget"  # small_budget, or deepmind (needs billions of tokens)
    context: int = 256  # tokens of a context
    pack: bool = False  # join documents in one context, as the papers do
    chat: bool = False  # wrap each document in the model's chat template
    skip_first: int = 0  # positions after BOS that are left out
    per_document: int | None = None  # contexts of one document at most, so that none dominates
    device: str = "auto"  # auto, cpu or cuda
    dtype: str = "float32"  # of the language model: float32, bfloat16 or float16
    seed: int = 0
    workspace: Path = Path("workspace")
    replace: bool = False  # replace a finished SAE of that name


CALIBRATION_ROWS = 65_536


def run(args: Train) -> int:
    import json

    import torch

    from commands.capture import anywhere, capture
    from commands.progress import track
    from data import lm as language_models
    from data.activations import ActivationSpec, ShuffledRows
    from data.tokens import ContextRule
    from data.workspace import Workspace
    from sae import formats
    from sae.config import SAEConfig, check_pair, preset
    from sae.trainer import Trainer

    workspace = Workspace.open(args.workspace)
    workspace.refuse_taken(args.name, args.replace)
    changes = {"tokens": int(args.tokens), "seed": args.seed}
    for field in ("l0", "l0_coefficient"):
        if getattr(args, field) is not None:
            changes[field] = getattr(args, field)
    config = preset(args.preset, **changes)
    rule = ContextRule(args.context, args.pack, args.chat, args.skip_first, args.per_document)
    lm = language_models.load(args.lm, args.device, args.dtype)
    shape = SAEConfig(lm.width(args.site), args.d_sae, args.arch)
    check_pair(shape, config)
    corpus = int(args.tokens if args.corpus_tokens is None else args.corpus_tokens)
    model, text = anywhere(args.lm), anywhere(args.text)
    spec = ActivationSpec(model, args.site, text, args.text_field, corpus, rule, args.dtype)
    cache = capture(workspace, lm, spec)
    source = ShuffledRows(cache, cache.contexts_where("train", not_use="calibrate"), seed=args.seed)
    calibrate = cache.rows_of(cache.contexts_where("train", use="calibrate"))[:CALIBRATION_ROWS]
    rows = torch.from_numpy(cache.x[calibrate]) if len(calibrate) else None
    with workspace.new_sae(args.name, args.replace) as folder:
        trainer = Trainer(source, shape, config, rows, lm.device)
        with (folder / "train.jsonl").open("w") as log:
            steps = track(
                trainer,
                "training",
                lambda step: (step.step, trainer.n_steps),
                lambda s: (
                    f"{s.tokens_per_s or 0:,.0f} tokens/s  l0 {s.l0:.1f}  fve {s.fve:.3f}  "
                    f"dead {s.dead}"
                ),
            )
            for step in steps:
                log.write(json.dumps(step.row()) + "\n")
                log.flush()
        formats.save(trainer.sae(), folder, _metadata(args, lm, cache, config, corpus))
    print(f"wrote {workspace.sae(args.name)}")
    return 0


def _metadata(args: Train, lm, cache, config, corpus: int) -> dict:
    """What the SAE was made from; other tools read the first part, this program `workbench`."""
    from data.sites import transformer_lens_name
    from data.tokens import bos_of

    return {
        "model_name": cache.manifest["spec"]["lm"],
        "hook_name": transformer_lens_name(args.site),
        "context_size": args.context,
        "prepend_bos": True,
        "dataset_path": cache.manifest["spec"]["text"],
        "workbench": {
            "lm": cache.manifest["spec"]["lm"],
            "lm_weights": lm.fingerprint,
            "dtype": args.dtype,
            "site": args.site,
            "text": cache.manifest["spec"]["text"],
            "text_field": args.text_field,
            "corpus_tokens": corpus,
            "rule": cache.manifest["spec"]["rule"],
            "mask": cache.manifest["mask"],
            "bos": bos_of(lm.tokenizer),
            "training": asdict(config),
        },
    }

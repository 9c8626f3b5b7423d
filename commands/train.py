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
    from data.errors import TextError
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
    refuse_too_large(shape, config.batch, lm.device)
    if lm.context_limit is not None and args.context > lm.context_limit:
        raise TextError(
            f"--context {args.context} is longer than the {lm.context_limit} tokens this model was "
            f"made for: use --context {lm.context_limit} or less"
        )
    corpus = int(args.tokens if args.corpus_tokens is None else args.corpus_tokens)
    model, text = anywhere(args.lm), anywhere(args.text)
    spec = ActivationSpec(model, args.site, text, args.text_field, corpus, rule, args.dtype)
    cache = capture(workspace, lm, spec)
    source = ShuffledRows(cache, cache.contexts_where("train", not_use="calibrate"), seed=args.seed)
    calibrate = cache.rows_of(cache.contexts_where("train", use="calibrate"))[:CALIBRATION_ROWS]
    rows = torch.from_numpy(cache.x[calibrate]) if len(calibrate) else None
    if source.n_rows < config.batch:
        raise TextError(
            f"{args.text!r} gives {source.n_rows:,} training activations, less than a batch of "
            f"{config.batch:,}: use a longer text, or raise --corpus-tokens"
        )
    if rows is None:
        print(
            "no document of this text falls into the calibrate split: l0 is fitted in training only"
        )
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


def refuse_too_large(shape, batch: int, device: str) -> None:
    """Raises Refused where weights, gradients, Adam's moments and one batch cannot fit."""
    import torch

    from sae.config import Refused

    per_feature = 4 * (4 * (2 * shape.d_in + 2) + 3 * batch)  # float32 bytes
    if device.startswith("cuda"):
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = _free_memory()
    if shape.d_sae * per_feature > free:
        raise Refused(
            f"--d-sae {shape.d_sae:,} needs about {shape.d_sae * per_feature / 1e9:.0f} GB and "
            f"{free / 1e9:.0f} are free: at most {free // per_feature:,} features fit"
        )


def _free_memory() -> int:
    """Bytes that can be had without swapping; all of the memory where the system does not say."""
    import os

    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(x for x in lines if x.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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

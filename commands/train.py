"""`train`: activations of a language model in, a sparse autoencoder out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

STOPPED = 130  # the exit status after Ctrl-C


@dataclass(frozen=True)
class Train:
    """Train a sparse autoencoder on a language model's activations."""

    name: str  # of the SAE; it becomes workspace/saes/NAME
    lm: str = "demo"  # demo, a model folder, or a hub id
    site: str = "resid_post.2"  # resid_post.L, mlp_out.L, attn_z.L or hook:PATH:input|output
    text: str = "python:stdlib"  # file, folder, hf:NAME[:SPLIT], python:stdlib, python:installed
    text_field: str = "text"  # the column of JSONL, Parquet and hub data sets
    arch: str | None = (
        None  # jumprelu, gated, relu, topk, batchtopk, matryoshka (default: preset's)
    )
    d_sae: int = 2048  # number of features
    l0: float | None = None  # wanted active features per token (small_budget: 32)
    coefficient: float | None = None  # lambda, the price of sparsity (deepmind and other papers)
    lr: float | None = None  # Adam's step (default: the preset's)
    batch: int | None = None  # activations of one step (default: the preset's)
    tokens: float = 2e6  # activations to train on; passes over the corpus repeat
    corpus_tokens: float | None = None  # tokens to read from the text (default: as `tokens`)
    preset: str = "small_budget"  # or deepmind, gemma_scope_2, anthropic_2025, gated_paper, ...
    set: tuple[str, ...] = ()  # FIELD=VALUE ...: any other field of sae/config.py's TrainConfig
    fit: str | None = None  # rescale_shift, rescale, jumprelu, jumprelu_frozen_encoder
    start_from: str | None = None  # the finished SAE that --fit goes on from; it decides d_sae
    context: int = 256  # tokens of a context
    pack: bool = False  # join documents in one context, as the papers do
    chat: bool = False  # wrap each document in the model's chat template
    skip_first: int = 0  # positions after BOS that are left out
    per_document: int | None = None  # contexts of one document at most, so that none dominates
    device: str = "auto"  # auto, cpu or cuda
    dtype: str = "float32"  # of the language model: float32, bfloat16 or float16
    seed: int = 0
    workspace: Path = Path("workspace")
    resume: bool = False  # go on with a run that was stopped or killed
    replace: bool = False  # replace a finished SAE of that name, and a run that was stopped


def run(args: Train) -> int:
    import shutil

    from commands import running
    from commands.capture import capture
    from commands.estimate import expected, refuse_too_large
    from commands.progress import track
    from commands.rows import training_rows
    from data import lm as language_models
    from data.workspace import Workspace
    from sae import formats
    from sae.config import shape_for
    from sae.trainer import Trainer

    workspace = Workspace.open(args.workspace)
    workspace.refuse_taken(args.name, args.replace)
    unfinished = workspace.unfinished(args.name)
    resume = refuse_unclear(unfinished, args)
    config = config_of(args)
    fitted = None
    if args.start_from is not None:
        fitted, _ = formats.load(workspace.sae(args.start_from))
    lm = language_models.load(args.lm, args.device, args.dtype)
    shape = shape_for(lm.width(args.site), args.d_sae if fitted is None else fitted.d_sae, config)
    refuse_too_large(shape, config, lm.device)
    refuse_long_context(args.context, lm)
    cache = capture(workspace, lm, spec_for(args, args.site))
    rows = training_rows(cache, args.seed, config.batch)
    if rows.calibrate is None:
        print(
            "no document of this text falls into the calibrate split: l0 is fitted in training only"
        )
    if args.replace and not args.resume:
        running.discard(unfinished)
    try:
        with workspace.new_sae(args.name, args.replace) as folder:
            trainer = Trainer(
                rows.source, shape, config, rows.calibrate, rows.heldout, lm.device, fitted, resume
            )
            print(f"{args.name}: {expected([trainer])}")
            steps = track(
                running.follow(((0, step) for step in trainer), [running.Run(trainer, unfinished)]),
                "training",
                lambda step: (step[1].step, trainer.n_steps),
                lambda step: told(step[1]),
            )
            for _ in steps:
                pass
            formats.save(trainer.sae(), folder, metadata(args, args.site, lm, cache, config))
            shutil.copy(unfinished / running.LOG, folder / running.LOG)
    except running.Stopped:  # outside: a folder that is left without an error is published
        print(f"stopped at step {trainer.done:,} of {trainer.n_steps:,}: go on with --resume")
        return STOPPED
    running.discard(unfinished)
    print(f"wrote {workspace.sae(args.name)}")
    return 0


def refuse_unclear(unfinished: Path, args: Train) -> Path | None:
    """The checkpoint to go on from. Raises WorkspaceError where a stopped run is in the way, or
    where there is none to resume."""
    from commands.running import checkpoint_in
    from data.errors import WorkspaceError

    found = checkpoint_in(unfinished)
    if args.resume:
        if found is None:
            raise WorkspaceError(f"there is no stopped run of {args.name}: leave --resume out")
        return found
    if found is not None and not args.replace:
        raise WorkspaceError(
            f"a run of {args.name} was stopped and can go on with --resume; "
            "to begin anew, give --replace"
        )
    return None


def config_of(args: Train):
    """The TrainConfig that the command line asks for."""
    from commands.recipe import recipe
    from sae.config import Refused

    if (args.fit is None) != (args.start_from is None):
        raise Refused("--fit and --start-from belong together: name an SAE and what to fit on it")
    return recipe(
        args.preset,
        args.arch,
        args.fit,
        args.set,
        tokens=int(args.tokens),
        seed=args.seed,
        l0=args.l0,
        coefficient=args.coefficient,
        lr=args.lr,
        batch=args.batch,
    )


def refuse_long_context(context: int, lm) -> None:
    from data.errors import TextError

    if lm.context_limit is not None and context > lm.context_limit:
        raise TextError(
            f"--context {context} is longer than the {lm.context_limit} tokens this model was "
            f"made for: use --context {lm.context_limit} or less"
        )


def corpus_tokens(args: Train) -> int:
    return int(args.tokens if args.corpus_tokens is None else args.corpus_tokens)


def spec_for(args: Train, site: str):
    """The activations that the command line asks for, at one site."""
    from commands.capture import anywhere
    from data.activations import ActivationSpec
    from data.tokens import ContextRule

    rule = ContextRule(args.context, args.pack, args.chat, args.skip_first, args.per_document)
    model, text = anywhere(args.lm), anywhere(args.text)
    return ActivationSpec(model, site, text, args.text_field, corpus_tokens(args), rule, args.dtype)


def told(step) -> str:
    """A few words on a record, beside the bar."""
    heldout = f"  held out {step.heldout_fve:.3f}" if step.heldout_fve is not None else ""
    return (
        f"{step.tokens_per_s:,.0f} tokens/s  l0 {step.l0:.1f}  fve {step.fve:.3f}{heldout}  "
        f"dead {step.dead}"
    )


def metadata(args: Train, site: str, lm, cache, config) -> dict:
    """What the SAE was made from; other tools read the first part, this program `workbench`."""
    from data.sites import transformer_lens_name
    from data.tokens import bos_of

    return {
        "model_name": cache.manifest["spec"]["lm"],
        "hook_name": transformer_lens_name(site),
        "context_size": args.context,
        "prepend_bos": True,
        "dataset_path": cache.manifest["spec"]["text"],
        "workbench": {
            "lm": cache.manifest["spec"]["lm"],
            "lm_weights": lm.fingerprint,
            "dtype": args.dtype,
            "site": site,
            "text": cache.manifest["spec"]["text"],
            "text_field": args.text_field,
            "corpus_tokens": corpus_tokens(args),
            "rule": cache.manifest["spec"]["rule"],
            "mask": cache.manifest["mask"],
            "bos": bos_of(lm.tokenizer),
            "training": asdict(config),
            "start_from": args.start_from,
        },
    }

"""`evaluate`: how good a sparse autoencoder is, on documents nothing was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LABELS = {
    "l0": "active features per token",
    "fve": "fraction of variance explained",
    "mse": "mean squared error, summed over d_in",
    "ce": "cross-entropy of the model, nats per token",
    "delta_loss": "loss added by the splice, nats per token",
    "loss_recovered": "loss recovered, against zero ablation",
    "kl": "KL(original || spliced), nats per token",
    "gamma": "relative reconstruction bias (1: none)",
    "dead": "features that never fire",
    "alive": "features that fire",
    "high_freq_10": "share of features firing on over 10 % of tokens",
    "high_freq_1": "share of features firing on over 1 % of tokens",
    "n_tokens": "held-out tokens",
}


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained SAE on held-out documents."""

    name: str  # of the SAE
    text: str | None = None  # another text than the one it was trained on; all of it is used
    text_field: str = "text"
    tokens: float | None = None  # tokens to read from that text
    loss_tokens: int = 65_536  # tokens on which the language model runs with the SAE spliced in
    json: bool = False  # print one JSON object
    device: str = "auto"
    workspace: Path = Path("workspace")


def run(args: Evaluate) -> int:
    import json
    from dataclasses import replace

    import numpy as np

    from commands.capture import anywhere, capture, spec_of
    from commands.progress import track
    from data.errors import TextError
    from data.workspace import Workspace, publish
    from interp.engine import join
    from interp.fidelity import Evaluation

    if args.text is None and args.tokens is not None:
        raise TextError("--tokens says how much to read of --text: give both, or neither")
    if args.loss_tokens < 1:
        raise TextError(f"--loss-tokens {args.loss_tokens}: give at least 1")
    workspace = Workspace.open(args.workspace)
    folder = workspace.sae(args.name)
    sae, lm, training = join(folder, args.device)
    spec = spec_of(training)
    if args.text is not None:
        tokens = spec.tokens if args.tokens is None else int(args.tokens)
        spec = replace(spec, text=anywhere(args.text), text_field=args.text_field, tokens=tokens)
    cache = capture(workspace, lm, spec)
    if args.text is None:
        split, contexts = "heldout", cache.contexts_where("heldout")
    else:
        split, contexts = "all", np.flatnonzero(np.diff(cache.context_rows) > 0)
    if len(contexts) == 0:
        raise TextError(
            f"no document of {spec.text!r} is held out (about one in ten is): use a longer text, "
            "or name one with --text"
        )
    evaluation = Evaluation(sae, cache, lm, contexts, args.loss_tokens)
    for _ in track(evaluation, "evaluation", lambda step: (step.done, step.total)):
        pass
    result = evaluation.result | {"text": spec.text, "split": split}
    if args.text is None:
        with publish(folder / "metrics.json") as part:
            part.write_text(json.dumps(result, indent=1) + "\n")
    if args.json:
        print(json.dumps(result))
    else:
        for key, label in LABELS.items():
            print(f"{key:>15}  {_shown(result[key]):>10}  {label}")
    return 0


def _shown(value: float | int | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"

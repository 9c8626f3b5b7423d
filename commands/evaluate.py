"""`evaluate`: how good a sparse autoencoder is, on documents nothing was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LABELS = {
    "l0": "active features per token",
    "fve": "fraction of variance explained",
    "mse": "mean squared error, summed over d_in",
    "cosine": "mean cosine of activation and reconstruction",
    "l2_ratio": "mean norm of the reconstruction over the activation's",
    "gamma": "relative reconstruction bias (1: none)",
    "ce": "cross-entropy of the model, nats per token",
    "delta_loss": "loss added by the splice, nats per token",
    "loss_recovered": "loss recovered, against zero ablation",
    "loss_recovered_mean": "loss recovered, against ablation to the mean",
    "kl": "KL(original || spliced), nats per token",
    "dead": "features that never fire",
    "alive": "features that fire",
    "high_freq_10": "share of features firing on over 10 % of tokens",
    "high_freq_1": "share of features firing on over 1 % of tokens",
    "n_tokens": "held-out tokens",
}
ATTRIBUTION_LABELS = {
    "effective_number": "features a prediction is spread over, per token",
    "uniformity": "that number over the token's active features",
}


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained SAE on held-out documents."""

    name: str  # of the SAE
    text: str | None = None  # another text than the one it was trained on; all of it is used
    text_field: str = "text"
    tokens: float | None = None  # tokens to read from that text
    loss_tokens: int = 65_536  # tokens on which the language model runs with the SAE spliced in
    attribution_tokens: int = 8_192  # tokens whose predictions are attributed to features; 0: none
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
    from interp.fidelity import Evaluation, refuse_transcoder

    if args.text is None and args.tokens is not None:
        raise TextError("--tokens says how much to read of --text: give both, or neither")
    if args.loss_tokens < 1:
        raise TextError(f"--loss-tokens {args.loss_tokens}: give at least 1")
    if args.attribution_tokens < 0:
        raise TextError(f"--attribution-tokens {args.attribution_tokens}: give 0 or more")
    workspace = Workspace.open(args.workspace)
    folder = workspace.sae(args.name)
    sae, lm, training = join(folder, args.device)
    refuse_transcoder(sae)
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
    evaluation = Evaluation(sae, cache, lm, contexts, args.loss_tokens, args.attribution_tokens)
    for _ in track(evaluation, "evaluation", lambda step: (step.done, step.total)):
        pass
    result = evaluation.result | {"text": spec.text, "split": split}
    if args.text is None:
        with publish(folder / "metrics.json") as part:
            part.write_text(json.dumps(result, indent=1) + "\n")
    if args.json:
        print(json.dumps(result))
    else:
        _print_table(result)
    return 0


def _print_table(result: dict) -> None:
    def line(key: str, value, label: str) -> None:
        print(f"{key:>19}  {_shown(value):>10}  {label}")

    for key, label in LABELS.items():
        line(key, result[key], label)
    if result["attribution"] is not None:
        for key, label in ATTRIBUTION_LABELS.items():
            line(key, result["attribution"][key], label)
    quantiles = "  ".join(f"{key} {value}" for key, value in result["l0_distribution"].items())
    print(f"{'l0_distribution':>19}  {quantiles}")
    print(f"{'position':>19}{'tokens':>9}{'mse':>12}{'fve':>11}{'delta_loss':>12}")
    for row in result["by_position"]:
        where = f"{row['position_from']}-{row['position_to']}"
        cells = [_shown(row[key]) for key in ("n", "mse", "fve", "delta_loss")]
        print(f"{where:>19}{cells[0]:>9}{cells[1]:>12}{cells[2]:>11}{cells[3]:>12}")


def _shown(value: float | int | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"

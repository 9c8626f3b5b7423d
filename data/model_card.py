"""The page that says how the embedded language model was made, beside its weights.

In:  figures and log of a finished training. Out: README.md and curve.svg in the model's folder.
"""

from __future__ import annotations

from pathlib import Path

CARD = """# The demo's language model

A causal language model of Python source code, made by this project for its demo: Llama
architecture, {parameters:,} parameters ({layers} blocks, d_model {d_model}, {heads} heads,
MLP {d_mlp}, tied embeddings), a byte-level BPE tokenizer of {vocab:,} ids that puts BOS in
front, context {context:,}. The weights are float16 on disk and are always loaded with
`dtype=float32`.

| figure | value |
|---|---|
| bits per byte, held-out standard-library files | **{bits_per_byte:.3f}** |
| `xz -9` on the same files, concatenated, bits per byte | {xz_9_bits_per_byte:.3f} |
| held-out files; bytes | {heldout_files:,}; {heldout_bytes:,} |
| trained on tokens | {training_tokens:,} |
| corpus: standard library; installed packages (tokens) | {stdlib:,}; {installed:,} |

![training loss](curve.svg)

The text is the Python source that the machine it was trained on carried: the standard library
without its tests and tables, then installed packages, near-duplicates dropped. A tenth of the
documents, chosen by a hash of their content (`data/text.py`), was held out and is what the figures
are measured on: each file cut into stretches of {room} tokens, each behind its own BOS.

Made by `python run.py lm train` (`data/lm_training.py`): hidden matrices by Muon, the rest by
AdamW, batches of {batch} contexts, {share:.0%} of them from the standard library; a constant
rate that falls linearly to zero over the last {decay:.0%}. It resumes from its checkpoint
wherever it was stopped. Every logged step is in `training.jsonl`, every figure
above in `figures.json`.
"""


def write_card(out: Path, figures: dict, log: list[dict]) -> None:
    """Writes README.md and curve.svg into the model folder `out`."""
    config = figures["config"]
    values = figures | figures["corpus_tokens"] | config
    values |= {"room": config["context"] - 1, "share": config["stdlib_share"]}
    (out / "README.md").write_text(CARD.format(**values), encoding="utf-8")
    (out / "curve.svg").write_text(_curve(log), encoding="utf-8")


def _curve(log: list[dict], width: int = 640, height: int = 300) -> str:
    """Loss in nats per token over millions of tokens, as a small drawing."""
    left, bottom, top, right = 50, 40, 16, 16
    tokens = [row["tokens"] / 1e6 for row in log]
    losses = [row["loss"] for row in log]
    low, high = int(min(losses)), int(max(losses)) + 1

    def x(value: float) -> float:
        return left + (width - left - right) * value / max(tokens)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    points = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in zip(tokens, losses, strict=True))
    text = 'font-family="sans-serif" font-size="12" fill="#777"'
    rules = "".join(
        f'<line x1="{left}" x2="{width - right}" y1="{y(v):.1f}" y2="{y(v):.1f}" '
        f'stroke="#8885"/>'
        f'<text x="{left - 8}" y="{y(v) + 4:.1f}" text-anchor="end" {text}>{v}</text>'
        for v in range(low, high + 1)
    )
    step = max(round(max(tokens) / 5), 1)
    ticks = "".join(
        f'<text x="{x(t):.1f}" y="{height - 20}" text-anchor="middle" {text}>{t}</text>'
        for t in range(0, int(max(tokens)) + 1, step)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">'
        f'{rules}{ticks}<polyline points="{points}" fill="none" stroke="#d2691e" stroke-width="2"/>'
        f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle" {text}>million tokens</text>'
        f'<text x="{left + 8}" y="{top + 12}" {text}>training loss, nats per token</text></svg>\n'
    )

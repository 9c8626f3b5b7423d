"""Trains the small language model that the demo is about.

In:  Python source text of this installation (the standard library, then installed packages).
Out: a Hugging Face folder (Llama architecture, float16 safetensors, byte-level BPE tokenizer),
     `training.jsonl` beside it, and bits per byte on held-out standard-library files.

Hidden matrices learn by Muon, the rest by AdamW; the rate is constant and falls linearly to zero
over the last part, so a run can be prolonged until its decay begins. A checkpoint every few
minutes holds weights, both optimizers and the step; batches are a function of seed and step.
"""

from __future__ import annotations

import json
import lzma
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data.errors import ModelError
from data.model_card import write_card
from data.text import documents, min_hash, split_of, without_near_duplicates

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"

# Words with at most one leading mark (`.join`, ` self`), numbers of up to three digits, runs of
# punctuation with their line end, indentation. After the pre-tokenisation of cl100k (OpenAI).
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class LMTrainConfig:
    """What to train and for how long. Sizes in tokens unless said."""

    tokens: float = 30e6  # total training budget
    vocab: int = 4096
    context: int = 512
    d_model: int = 256
    layers: int = 4
    heads: int = 4
    d_mlp: int = 688
    batch: int = 16  # contexts per step
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    decay: float = 0.4  # last share of the budget over which the rate falls to zero
    warmup_steps: int = 50
    stdlib_share: float = 0.4  # share of contexts from the standard library
    seed: int = 0
    compile: bool = False  # torch.compile; needs a C++ compiler, about 12 % faster on a CPU

    def __post_init__(self) -> None:
        if self.tokens < self.batch * self.context:
            raise ModelError(
                f"--tokens {self.tokens:g} is less than one batch of {self.batch} x {self.context}"
            )

    @property
    def steps(self) -> int:
        return int(self.tokens // (self.batch * self.context))

    @property
    def fixed(self) -> dict:
        """What a resumed run must share; only its length may change."""
        return {k: v for k, v in asdict(self).items() if k not in ("tokens", "compile")}

    def rate(self, step: int) -> float:
        """Learning-rate factor in [0, 1]: linear warm-up, constant, linear decay to zero."""
        warm = min((step + 1) / self.warmup_steps, 1.0)
        left = (self.steps - step) / max(self.decay * self.steps, 1.0)
        return warm * min(left, 1.0)


def train_tokenizer(texts: Iterator[str], vocab: int, context: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that puts BOS in front; every byte string can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


@dataclass
class Corpus:
    """Token streams (uint16, BOS before each document) and the held-out texts."""

    stdlib: np.ndarray
    installed: np.ndarray
    heldout: list[str]


def prepare(config: LMTrainConfig, folder: Path) -> tuple[PreTrainedTokenizerFast, Corpus]:
    """Reads, de-duplicates, splits and tokenises the corpus once; kept in `folder`."""
    ready = folder / "corpus.npz"
    if ready.exists():
        stored = np.load(ready)
        heldout = json.loads((folder / "heldout.json").read_text(encoding="utf-8"))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        return tokenizer, Corpus(stored["stdlib"], stored["installed"], heldout)
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[str]] = {"stdlib": [], "installed": [], "heldout": []}
    library = list(documents("python:stdlib"))
    of_library = {id(document) for document in library}
    for document in without_near_duplicates(chain(library, documents("python:installed"))):
        of_stdlib = id(document) in of_library
        if split_of(min_hash(document.text)) == "train":
            parts["stdlib" if of_stdlib else "installed"].append(document.text)
        elif of_stdlib:
            parts["heldout"].append(document.text)
    sample = chain(parts["stdlib"], parts["installed"][: 2 * len(parts["stdlib"])])
    tokenizer = train_tokenizer(sample, config.vocab, config.context)
    tokenizer.save_pretrained(folder / "tokenizer")

    def stream(texts: list[str]) -> np.ndarray:
        encoded = tokenizer.backend_tokenizer.encode_batch(texts)  # adds BOS to each
        return np.concatenate([np.asarray(e.ids, dtype=np.uint16) for e in encoded])

    corpus = Corpus(stream(parts["stdlib"]), stream(parts["installed"]), parts["heldout"])
    (folder / "heldout.json").write_text(json.dumps(corpus.heldout), encoding="utf-8")
    np.savez(folder / "corpus.part.npz", stdlib=corpus.stdlib, installed=corpus.installed)
    os.replace(folder / "corpus.part.npz", ready)
    return tokenizer, corpus


def batch_at(corpus: Corpus, config: LMTrainConfig, step: int, bos: int) -> torch.Tensor:
    """The batch of `step` [batch, context]: BOS, then a random stretch of the stream."""
    rng = np.random.default_rng([config.seed, step])
    rows = np.empty((config.batch, config.context), dtype=np.int64)
    rows[:, 0] = bos
    for row in rows:
        part = corpus.stdlib if rng.random() < config.stdlib_share else corpus.installed
        start = int(rng.integers(0, len(part) - config.context))
        row[1:] = part[start : start + config.context - 1]
    return torch.from_numpy(rows)


def new_model(config: LMTrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.d_model,
            intermediate_size=config.d_mlp,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            use_cache=False,
            dtype=torch.float32,
        )
    )


def optimizers_for(model: LlamaForCausalLM, config: LMTrainConfig) -> list[torch.optim.Optimizer]:
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = torch.optim.Muon(
        hidden, lr=config.muon_lr, weight_decay=0.0, adjust_lr_fn="original", ns_steps=5
    )
    adam = torch.optim.AdamW(rest, lr=config.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adam]


@torch.no_grad()
def bits_per_byte(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    context: int,
    batch: int = 16,
) -> float:
    """Cross-entropy of whole texts in bits per UTF-8 byte.

    Each text is cut into stretches of context - 1 tokens, each behind its own BOS, none
    overlapping: the same contexts the rest of the program uses.
    """
    device = next(model.parameters()).device
    rows: list[list[int]] = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        rows += [ids[i : i + context - 1] for i in range(0, len(ids), context - 1)]
    rows.sort(key=len)
    nats = 0.0
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        width = max(map(len, part)) + 1
        ids = torch.full((len(part), width), tokenizer.pad_token_id)
        ids[:, 0] = tokenizer.bos_token_id
        for i, row in enumerate(part):
            ids[i, 1 : 1 + len(row)] = torch.tensor(row)
        ids = ids.to(device)
        targets = ids[:, 1:].clone()
        targets[targets == tokenizer.pad_token_id] = -100
        logits = model(ids).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
        )
        nats += loss.item()
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


@dataclass(frozen=True)
class LMStep:
    """What `train_lm` yields now and then."""

    step: int
    tokens: int
    loss: float  # nats per token, exponential average
    rate: float
    tokens_per_s: float
    bpb: float | None = None


def train_lm(
    config: LMTrainConfig, work: Path, out: Path, device: str, checkpoint_minutes: float = 3.0
) -> Iterator[LMStep]:
    """Trains, resuming from `work/checkpoint.pt` if it is there; writes the model folder `out`."""
    tokenizer, corpus = prepare(config, work)
    model = new_model(config, tokenizer).to(device)
    optimizers = optimizers_for(model, config)
    base_rates = [config.muon_lr, config.adam_lr]
    step, average, log = 0, None, []
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=False)
        model.load_state_dict(state["model"])
        for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        step, average, log = state["step"], state["average"], state["log"]
        if state["fixed"] != config.fixed:
            raise ModelError(
                f"{checkpoint} belongs to a run with other settings ({state['fixed']}): "
                "remove it, or train in another --workspace"
            )

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model(inputs).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    if config.compile:
        loss_of = torch.compile(loss_of, dynamic=False)
    probe = corpus.heldout[:: max(len(corpus.heldout) // 12, 1)]
    saved = clock = time.monotonic()
    since = step
    while step < config.steps:
        ids = batch_at(corpus, config, step, tokenizer.bos_token_id).to(device)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            loss = loss_of(ids[:, :-1], ids[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, base in zip(optimizers, base_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * config.rate(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        step += 1
        if step % 20 == 0 or step == config.steps:
            now = time.monotonic()
            speed = (step - since) * config.batch * config.context / (now - clock)
            clock, since = now, step
            bpb = None
            if step % 400 == 0:
                bpb = bits_per_byte(model, tokenizer, probe, config.context)
            done = step * config.batch * config.context
            record = LMStep(step, done, average, config.rate(step - 1), speed, bpb)
            log.append(asdict(record))
            yield record
        if time.monotonic() - saved > 60 * checkpoint_minutes:
            _save_checkpoint(checkpoint, config, model, optimizers, step, average, log)
            saved = time.monotonic()
    _save_checkpoint(checkpoint, config, model, optimizers, step, average, log)
    _save(model, tokenizer, config, corpus, log, out)


def _save_checkpoint(
    path: Path, config: LMTrainConfig, model, optimizers, step: int, average: float, log: list
) -> None:
    state = {
        "fixed": config.fixed,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "average": average,
        "log": log,
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def _save(model, tokenizer, config: LMTrainConfig, corpus: Corpus, log: list, out: Path) -> None:
    """The folder as it is shipped: float16 weights, measured after the rounding."""
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    model.half().save_pretrained(part)
    tokenizer.save_pretrained(part)
    model.float()
    (part / "training.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    heldout = "".join(corpus.heldout).encode()
    packed = lzma.compress(heldout, preset=9)
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_tokens": config.steps * config.batch * config.context,
        "corpus_tokens": {"stdlib": len(corpus.stdlib), "installed": len(corpus.installed)},
        "heldout_files": len(corpus.heldout),
        "heldout_bytes": len(heldout),
        "bits_per_byte": bits_per_byte(model, tokenizer, corpus.heldout, config.context),
        "xz_9_bits_per_byte": 8 * len(packed) / len(heldout),
        "config": asdict(config),
    }
    (part / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    write_card(part, figures, log)
    for file in part.iterdir():
        file.chmod(0o644)  # the writer of safetensors leaves its files to the owner alone
    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)

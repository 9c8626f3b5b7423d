"""Tiny random language models, tokenizers, texts and SAEs, made in milliseconds from nothing.

Out: Hugging Face models of five families, a byte-level and a sentencepiece-like tokenizer, texts,
JumpReLU SAEs whose features fire on a given share of rows. Everything is seeded.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from data.activations import ActivationCache, ActivationSpec, build_cache
from data.lm import LanguageModel
from data.tokens import ContextRule
from sae.models import JumpReLUSAE

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma", "gemma2")
LAYERS, WIDTH, HEADS, VOCAB, LIMIT = 3, 24, 3, 330, 64
WORDS = (
    "def return import class self none true false list item value index name path file open read "
    "write line token model layer norm head key query sparse code feature fire sum mean max"
).split()
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<user> {{ message['content'] }} <end>{% endfor %}"
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For tensors this small a second thread only waits, five times as long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sentences(n: int, seed: int = 0, words: int = 30) -> list[str]:
    """`n` different texts of about `words` words."""
    rng = np.random.default_rng(seed)
    texts = []
    for number in range(n):
        length = max(int(rng.integers(words // 2, 2 * words)), 1)
        chosen = rng.choice(WORDS, size=length)
        texts.append(f"doc {number}: " + " ".join(chosen) + f"\n    return {number}\n")
    return texts


def tokenizer(vocab: int = VOCAB) -> PreTrainedTokenizerFast:
    """Byte-level BPE with BOS, EOS and padding tokens 0, 1, 2; any text can be encoded."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(sentences(40), trainer)
    raw.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=LIMIT
    )


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """As Gemma's: U+2581 for a space, characters it has not seen as byte tokens <0x..>."""
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    pieces = [
        "<pad>",
        "<eos>",
        "<bos>",
        *bytes_,
        *"abcdefghijklmnopqrstuvwxyz\u2581:\n",
        "re",
        "\u2581re",
    ]
    raw = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[("r", "e"), ("\u2581", "re")],
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    raw.normalizer = normalizers.Replace(" ", "\u2581")
    raw.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def config(family: str, vocab: int):
    """A configuration of 3 layers; Gemma's heads are together wider than the stream."""
    common = {"vocab_size": vocab, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    if family == "gpt2":
        return GPT2Config(
            n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=LIMIT, n_inner=40, **common
        )
    shape = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 40,
        "max_position_embeddings": LIMIT,
        **common,
    }
    if family == "gpt_neox":
        return GPTNeoXConfig(**shape)
    if family == "llama":
        return LlamaConfig(num_key_value_heads=1, tie_word_embeddings=False, **shape)
    made = {"gemma": GemmaConfig, "gemma2": Gemma2Config}[family]
    return made(num_key_value_heads=1, head_dim=12, **shape)


def network(family: str, vocab: int = VOCAB, seed: int = 0) -> torch.nn.Module:
    """A random model; its norms' scales and its biases are random too, so that none can be left out
    unnoticed."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(family, vocab), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise * (0.7 / WIDTH**0.5))
    return model.eval().requires_grad_(False)


def language_model(family: str = "llama", seed: int = 0, name: str = "tiny") -> LanguageModel:
    """The same joined with its tokenizer, as data.lm.load would return it."""
    made = tokenizer()
    return LanguageModel(name, network(family, len(made), seed), made, "cpu", f"{family}-{seed}")


def save(folder: Path, family: str = "llama", seed: int = 0, dtype=torch.float32) -> Path:
    """A complete model folder."""
    made = tokenizer()
    network(family, len(made), seed).to(dtype).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def write_texts(folder: Path, texts: list[str]) -> Path:
    """One .txt file a text."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number:04}.txt").write_text(text, encoding="utf-8")
    return folder


def write_jsonl(path: Path, texts: list[str], field: str = "text") -> Path:
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts), encoding="utf-8")
    return path


def cache(
    folder: Path, lm: LanguageModel, texts: list[str], site: str = "resid_post.1", **options
) -> ActivationCache:
    """The activations of `texts`, all of them, in contexts of 16; options: those of ContextRule,
    and `batch`."""
    folder.mkdir(parents=True, exist_ok=True)
    source = write_jsonl(folder / "text.jsonl", texts)
    batch = options.pop("batch", 8)
    rule = ContextRule(**{"context": 16, **options})
    spec = ActivationSpec(lm.name, site, str(source), "text", 10**9, rule)
    for _ in build_cache(folder, lm, spec, batch):
        pass
    return ActivationCache(folder)


def random_sae(x: np.ndarray, d_sae: int, share: float = 0.1, seed: int = 0) -> JumpReLUSAE:
    """A random SAE whose features fire on about `share` of the rows x [n, d_in]; the last but one
    is dead, the last fires on every row."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.from_numpy(np.array(x))
    sae = JumpReLUSAE(rows.shape[1], d_sae)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(sae.W_enc.shape, generator=generator))
        sae.b_enc.copy_(0.1 * torch.randn(d_sae, generator=generator))
        sae.W_dec.copy_(0.3 * torch.randn(sae.W_dec.shape, generator=generator))
        sae.b_dec.copy_(rows.mean(0))
        sae.threshold.copy_(sae.pre(rows).quantile(1 - share, dim=0).clamp_min(0.01))
        sae.threshold[-2] = 1e6
        sae.b_enc[-1] = 1.0 - (rows @ sae.W_enc)[:, -1].min()
        sae.threshold[-1] = 0.5
    return sae.requires_grad_(False)

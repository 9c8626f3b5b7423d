"""Subjects to harvest without training any: a model of GPT-2's shape, an SAE for any model.

In:  sizes and a folder. Out: a model folder with random weights and a vocabulary learnt from the
     standard library's source; an SAE in the native layout.

Speed does not depend on what an SAE learnt, but on how often its features fire: here the i-th
commonest does with a frequency of about i^-0.8, as the features of trained ones do.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

TEXT = "python:stdlib"
PER_DOCUMENT = 16  # contexts of one file at most, as the demo takes them
CALIBRATION_ROWS = 16_384  # of the thresholds
COMMONEST = 0.5  # share of the tokens a feature fires on at most
AT_ONCE = 1_024  # features whose thresholds are set at once


@dataclass(frozen=True)
class Subject:
    """What is harvested; everything lies in `folder`."""

    folder: Path
    lm: str  # demo, or a model folder
    sae: Path
    site: str
    tokens: int
    d_sae: int
    l0: float
    threads: int

    def spec(self):
        from data.activations import ActivationSpec
        from data.tokens import ContextRule

        rule = ContextRule(per_document=PER_DOCUMENT)
        return ActivationSpec(self.lm, self.site, TEXT, tokens=self.tokens, rule=rule)


def gpt2_small(folder: Path) -> None:
    """A model folder of GPT-2 small's shape, its weights random as at the start of training."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from data.text import documents

    end = "<|endoftext|>"
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=50_257, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator((d.text for d in documents(TEXT)), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=end, eos_token=end)
    tokenizer.save_pretrained(folder)
    about = folder / "tokenizer_config.json"  # the peers' older transformers know another name
    about.write_text(about.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)


def made_up_sae(subject: Subject) -> None:
    """Saves a JumpReLU SAE whose features fire on tokens like one they are named after."""
    from data.activations import ActivationCache, build_cache
    from data.lm import load
    from sae import formats
    from sae.models import JumpReLUSAE

    lm, generator = load(subject.lm, "cpu"), torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory(dir=subject.folder) as folder:
        spec = replace(subject.spec(), tokens=CALIBRATION_ROWS)
        for _ in build_cache(Path(folder), lm, spec):
            pass
        x = torch.from_numpy(np.array(ActivationCache(Path(folder)).x))
    mean = x.mean(0)
    named_after = torch.randint(0, len(x), (subject.d_sae,), generator=generator)
    noise = torch.randn(subject.d_sae, x.shape[1], generator=generator)
    directions = torch.nn.functional.normalize(x[named_after] - mean + 0.3 * x.std() * noise)
    sae = JumpReLUSAE(x.shape[1], subject.d_sae)
    with torch.no_grad():
        sae.W_enc.copy_(directions.T)
        sae.W_dec.copy_(directions)
        sae.b_dec.copy_(mean)
        sae.b_enc.copy_(-(mean @ sae.W_enc))
        rank = ((1 - frequencies(subject)) * (len(x) - 1)).long()
        for part in torch.arange(subject.d_sae).split(AT_ONCE):
            pre = (x @ sae.W_enc[:, part] + sae.b_enc[part]).sort(dim=0).values
            sae.threshold[part] = pre.gather(0, rank[None, part])[0].clamp_min(1e-3)
    subject.sae.mkdir()
    hook = f"blocks.{subject.site.rpartition('.')[2]}.hook_resid_post"
    names = {"model_name": subject.lm, "hook_name": hook}
    formats.save(sae, subject.sae, names | {"context_size": 256, "prepend_bos": True})


def frequencies(subject: Subject) -> torch.Tensor:
    """How often each feature fires [d_sae], float64; they add up to L0."""
    found = torch.arange(1, subject.d_sae + 1).double() ** -0.8
    for _ in range(20):
        found = (found * subject.l0 / found.sum()).clamp(max=COMMONEST)
    return found

"""A language model: load any Hugging Face causal LM, read activations at a site, or replace them.

In:  a folder, a hub id, or `demo` (the model this project ships); token ids [batch, context].
Out: activations [batch, context, d_in] at named sites; logits, plain or with a site replaced.

Capturing stops the forward pass right after the last site asked for.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from data import hub
from data.errors import ModelError, SiteError
from data.sites import Hook, final_norm, locate

DEMO = Path(__file__).parent / "demo"
COMMIT = re.compile("[0-9a-f]{40}")  # of a hub model
# What the loaders raise for files that are missing, damaged, or need a package that is not there.
LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.spm", "tekken.json")


class _Stop(Exception):
    """Raised inside a hook once everything asked for has been seen."""


def pick_device(name: str) -> str:
    """`auto` takes the GPU when there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ModelError(f"--device {name} is unknown: use auto, cpu or cuda")
    number = int(name[5:] or 0) if name != "cpu" else -1
    if number >= torch.cuda.device_count() or (number >= 0 and not torch.cuda.is_available()):
        raise ModelError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; "
            "use --device cpu"
        )
    return name


@dataclass(frozen=True)
class Readout:
    """From the residual stream after the last block to the logits."""

    head: torch.Tensor  # [vocabulary, d_model]
    scale: torch.Tensor | None  # [d_model] of the final norm; None without one
    centres: bool  # whether that norm subtracts the mean first (LayerNorm)


@dataclass
class LanguageModel:
    """A causal LM in evaluation mode with its tokenizer."""

    name: str  # as the user gave it
    model: torch.nn.Module
    tokenizer: object
    device: str
    fingerprint: str  # of the weights; part of every cache's name

    @property
    def dtype(self) -> str:
        """float32, bfloat16 or float16, as commands spell it."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    def width(self, site: str) -> int:
        """d_in at `site`, read from one token: no configuration says it for every site."""
        return self.capture(torch.tensor([[0]]), [site])[site].shape[-1]

    @property
    def context_limit(self) -> int | None:
        """Tokens the position embeddings were made for; None if the model does not say."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None)

    @torch.inference_mode()
    def capture(self, ids: torch.Tensor, sites: Sequence[str]) -> dict[str, torch.Tensor]:
        """Activations [batch, context, d_in] at each site; later layers do not run.

        ids: [batch, context]. Padding stands on the right, where causal attention never looks
        back at it, so no attention mask is needed. SiteError where a site has no activations.
        """
        found: dict[str, torch.Tensor] = {}

        def keep(site: str) -> Callable[[torch.Tensor], None]:
            def reader(activation: torch.Tensor) -> None:
                if site in found:  # a shared block runs again: its first run is what is read
                    return
                found[site] = activation.detach()
                if len(found) == len(sites):
                    raise _Stop
                # The model runs on, and some families then add to this very tensor.
                found[site] = found[site].clone()

            return reader

        with _hooked([(locate(self.model, site), keep(site)) for site in sites], ids.shape):
            try:
                self.model(input_ids=ids.to(self.device), use_cache=False)
            except _Stop:
                pass
        return found

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """[batch, context, vocabulary] float32."""
        return self.model(input_ids=ids.to(self.device), use_cache=False).logits.float()

    def logits_replacing(
        self, ids: torch.Tensor, site: str, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Logits of the model with the activation x at `site` replaced by change(x).

        Gradients reach what change(x) was made of, if that asks for them: no inference mode here.
        """
        with _hooked([(locate(self.model, site), change)], ids.shape):
            return self.model(input_ids=ids.to(self.device), use_cache=False).logits.float()

    @torch.inference_mode()
    def readout(self) -> Readout:
        """What stands between the last block and the logits."""
        head = self.model.get_output_embeddings().weight
        norm = final_norm(self.model)
        if norm is None:
            return Readout(head, None, False)
        # Families differ in what they multiply by (Gemma by 1 + weight): what the norm makes of a
        # vector of ones and of one of both signs tells for all of them.
        ones = torch.ones(head.shape[1], dtype=head.dtype, device=head.device)
        signs = ones.clone()
        signs[1::2] = -1
        scale = (norm(signs) - norm(-signs)) / 2 * signs
        kept = (norm(ones) - norm(-ones)).norm() / 2
        return Readout(head, scale, bool(kept < 0.1 * scale.norm()))


@contextmanager
def _hooked(readers: Sequence[tuple[Hook, Callable]], shape: Sequence[int]) -> Iterator[None]:
    """Installs hooks; a reader that returns a tensor replaces the activation.

    Blocks and attention modules return a tensor or a tuple that begins with one: both are met.
    SiteError for a module that meets no activations [*shape, d_in], or never runs.
    """
    ran: set[str] = set()

    def on_input(site: Hook, reader: Callable) -> Callable:
        def hook(_module, args, kwargs):
            name = next((k for k, v in kwargs.items() if torch.is_tensor(v)), None)
            ran.add(site.path)
            old = args[0] if args else kwargs.get(name)
            new = reader(_checked(old, site, shape))
            if new is None:
                return None
            new = new.reshape(old.shape)
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, name: new})

        return hook

    def on_output(site: Hook, reader: Callable) -> Callable:
        def hook(_module, _args, output):
            old = output[0] if isinstance(output, tuple) else output
            ran.add(site.path)
            new = reader(_checked(old, site, shape))
            if new is None:
                return None
            new = new.reshape(old.shape)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return hook

    handles = []
    try:
        for hook, reader in readers:
            if hook.side == "input":
                meet = on_input(hook, reader)
                handles.append(hook.module.register_forward_pre_hook(meet, with_kwargs=True))
            else:
                handles.append(hook.module.register_forward_hook(on_output(hook, reader)))
        yield
    finally:
        for handle in handles:
            handle.remove()
    silent = [hook.path for hook, _ in readers if hook.path not in ran]
    if silent:
        raise SiteError(
            f"{silent[0]!r} has no activations: the model never calls that module; name another"
        )


def _checked(seen: object, hook: Hook, shape: Sequence[int]) -> torch.Tensor:
    """`seen` if it is activations [*shape, d_in]; some modules meet them as one long list."""
    is_tensor = torch.is_tensor(seen)
    if is_tensor and seen.is_floating_point():
        if seen.shape[:-1] in (tuple(shape), (math.prod(shape),)):
            return seen.view(*shape, seen.shape[-1])
    what = f"{seen.dtype} {list(seen.shape)}" if is_tensor else type(seen).__name__
    raise SiteError(
        f"the {hook.side} of {hook.path!r} is no activations [batch, context, d_in]: "
        f"it is {what}; name another module"
    )


# ---------------------------------------------------------------- loading


def load(
    name: str,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
) -> LanguageModel:
    """Loads `demo`, a model folder or a hub id. ModelError says what is missing, at once."""
    if dtype not in DTYPES:
        raise ModelError(f"--dtype {dtype!r} is unknown: use {', '.join(DTYPES)}")
    path = _resolve(name, revision)
    device = pick_device(device)
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        # dtype must be said: the loader otherwise keeps the checkpoint's own.
        model, report = AutoModelForCausalLM.from_pretrained(
            path, dtype=DTYPES[dtype], revision=revision, output_loading_info=True
        )
    except LOADING_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{name!r} cannot be loaded as a causal language model: {reason}"
        ) from None
    if not tokenizer.is_fast:
        raise ModelError(
            f"{name!r} cannot be loaded: {type(tokenizer).__name__} cannot say the bytes of its "
            "tokens; convert it to a fast tokenizer (tokenizer.json)"
        )
    missing = sorted(report["missing_keys"])
    if missing:  # the loader would fill them with noise and only warn
        raise ModelError(
            f"{name!r} cannot be loaded: its files hold no {missing[0]} "
            f"({len(missing)} weights are missing); copy or convert the model again"
        )
    model.eval().requires_grad_(False).to(device)
    return LanguageModel(name, model, tokenizer, device, _fingerprint(path, model))


def load_again(name: str, weights: str, dtype: str, device: str) -> LanguageModel:
    """The model that `load` gave that fingerprint; ModelError if its weights have changed."""
    lm = load(name, device, dtype, revision=weights if COMMIT.fullmatch(weights) else None)
    if lm.fingerprint != weights:
        raise ModelError(
            f"{name!r} has other weights or another tokenizer now than when the SAE was trained on "
            "it: bring the old model back, or train again"
        )
    return lm


def _resolve(name: str, revision: str | None) -> str:
    """A local folder, or a hub id that is cached or can be reached."""
    if name == "demo":
        if not (DEMO / "model.safetensors").exists():
            raise ModelError(
                f"the demo model is not in {DEMO}: restore the folder from the repository, "
                "or make it with: python run.py lm train"
            )
        return str(DEMO)
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if not (folder / "config.json").exists():
            raise ModelError(
                f"{name!r} holds no config.json: it is not a Hugging Face model folder"
            )
        # Without one, the loader makes up an empty tokenizer for some families.
        if not any(file for pattern in VOCABULARIES for file in folder.glob(pattern)):
            raise ModelError(
                f"{name!r} cannot be loaded: it holds no tokenizer ({', '.join(VOCABULARIES)}); "
                "copy the model's tokenizer files into it"
            )
        return str(folder)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name, re.ASCII):
        raise ModelError(
            f"no model folder at {name!r}: give a folder with config.json, a hub id "
            "(OWNER/NAME), or demo"
        )
    return _from_hub(name, revision)


def _from_hub(name: str, revision: str | None) -> str:
    """The id itself where the hub answers; the cached snapshot's folder where it does not."""
    from huggingface_hub import snapshot_download

    code, reason = hub.status(f"{name}/resolve/{revision or 'main'}/config.json")
    if code in (401, 403, 404):
        raise ModelError(
            f"the hub answers {code} for {name!r}: check the name, and set HF_TOKEN "
            "if the model is gated"
        )
    if code is not None:
        return name
    try:
        return snapshot_download(name, revision=revision, local_files_only=True)
    except OSError:
        raise ModelError(
            f"{name!r} is neither a folder nor in the local cache, and the hub cannot be reached "
            f"({reason}): give a model folder or try again with a network"
        ) from None


def _fingerprint(path: str, model: torch.nn.Module) -> str:
    """What tells weights, configuration and tokenizer apart: the commit of a hub model, the hash of
    a folder."""
    if COMMIT.fullmatch(Path(path).name):  # a cached snapshot's folder is named after its commit
        return Path(path).name
    return getattr(model.config, "_commit_hash", None) or folder_fingerprint(path)


def folder_fingerprint(path: str | Path) -> str:
    """Hash of the whole files of a model folder: an edited model may differ in one matrix."""
    digest = hashlib.sha256()
    patterns = ("config.json", "*.safetensors", "*.bin", "*token*", "chat_template*", *VOCABULARIES)
    for file in sorted({file for pattern in patterns for file in Path(path).glob(pattern)}):
        if file.is_file():
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{file.name}:{content}\n".encode())
    return digest.hexdigest()

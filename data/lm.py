"""A language model: load any Hugging Face causal LM, read activations at a site, or replace them.

In:  a folder, a hub id, or `demo` (the model this project ships); token ids [batch, context].
Out: activations [batch, context, d_in] at named sites; logits, plain or with a site replaced.

Capturing stops the forward pass right after the last site asked for.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from data.errors import ModelError
from data.sites import Hook, blocks, locate

DEMO = Path(__file__).parent / "demo"
HUB_TIMEOUT_S = 5.0


class _Stop(Exception):
    """Raised inside a hook once everything asked for has been seen."""


def pick_device(name: str) -> str:
    """`auto` takes the GPU when there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"--device {name}: this machine has no CUDA device; use --device cpu")
    return name


@dataclass
class LanguageModel:
    """A causal LM in evaluation mode with its tokenizer."""

    name: str  # as the user gave it
    model: torch.nn.Module
    tokenizer: object
    device: str
    fingerprint: str  # of the weights; part of every cache's name

    @property
    def n_layers(self) -> int:
        return len(blocks(self.model)[1])

    @property
    def context_limit(self) -> int | None:
        """Tokens the position embeddings were made for; None if the model does not say."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None)

    @torch.inference_mode()
    def capture(self, ids: torch.Tensor, sites: Sequence[str]) -> dict[str, torch.Tensor]:
        """Activations [batch, context, d_in] at each site; later layers do not run.

        ids: [batch, context]. Padding stands on the right, where causal attention never looks
        back at it, so no attention mask is needed.
        """
        found: dict[str, torch.Tensor] = {}

        def keep(site: str) -> Callable[[torch.Tensor], None]:
            def reader(activation: torch.Tensor) -> None:
                found[site] = activation.detach()
                if len(found) == len(sites):
                    raise _Stop

            return reader

        with _hooked([(locate(self.model, site), keep(site)) for site in sites]):
            try:
                self.model(input_ids=ids.to(self.device), use_cache=False)
            except _Stop:
                pass
        return found

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """[batch, context, vocabulary] float32."""
        return self.model(input_ids=ids.to(self.device), use_cache=False).logits.float()

    @torch.inference_mode()
    def logits_replacing(
        self, ids: torch.Tensor, site: str, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Logits of the model with the activation x at `site` replaced by change(x)."""
        with _hooked([(locate(self.model, site), change)]):
            return self.logits(ids)

    def unembedding(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The output matrix [vocabulary, d_model] and the final norm's scale [d_model], if any."""
        head = self.model.get_output_embeddings().weight.detach()
        for path in ("model.norm", "model.language_model.norm", "transformer.ln_f",
                     "gpt_neox.final_layer_norm"):  # fmt: skip
            try:
                norm = self.model.get_submodule(path)
            except AttributeError:
                continue
            scale = norm.weight.detach()
            # Gemma's RMSNorm multiplies by (1 + weight).
            return head, scale + 1 if "Gemma" in type(norm).__name__ else scale
        return head, None


@contextmanager
def _hooked(readers: Sequence[tuple[Hook, Callable]]) -> Iterator[None]:
    """Installs hooks; a reader that returns a tensor replaces the activation.

    Blocks and attention modules return a tensor or a tuple that begins with one: both are met.
    """

    def on_input(reader: Callable) -> Callable:
        def hook(_module, args, kwargs):
            name = next(iter(kwargs)) if not args else None
            new = reader(args[0] if args else kwargs[name])
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, name: new})

        return hook

    def on_output(reader: Callable) -> Callable:
        def hook(_module, _args, output):
            if isinstance(output, tuple):
                new = reader(output[0])
                return None if new is None else (new, *output[1:])
            return reader(output)

        return hook

    handles = []
    try:
        for hook, reader in readers:
            if hook.side == "input":
                handles.append(
                    hook.module.register_forward_pre_hook(on_input(reader), with_kwargs=True)
                )
            else:
                handles.append(hook.module.register_forward_hook(on_output(reader)))
        yield
    finally:
        for handle in handles:
            handle.remove()


# ---------------------------------------------------------------- loading


def load(
    name: str,
    device: str = "auto",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> LanguageModel:
    """Loads `demo`, a model folder or a hub id. ModelError says what is missing, at once."""
    path = _resolve(name, revision)
    device = pick_device(device)
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        # dtype must be said: the loader otherwise keeps the checkpoint's own.
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{name!r} cannot be loaded as a causal language model: {reason}") from None
    model.eval().requires_grad_(False).to(device)
    return LanguageModel(name, model, tokenizer, device, _fingerprint(path, model))


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
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ModelError(f"{name!r} holds no config.json: it is not a Hugging Face model folder")
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"no model folder at {name!r}: give a folder with config.json, a hub id "
            "(OWNER/NAME), or demo"
        )
    _check_hub(name, revision)
    return name


def _check_hub(name: str, revision: str | None) -> None:
    """Fails in seconds where the hub client would retry for most of a minute."""
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    if constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{name!r} is not in the local cache and HF_HUB_OFFLINE is set: unset it, "
            "or give a model folder"
        )
    url = f"{constants.ENDPOINT}/{name}/resolve/{revision or 'main'}/config.json"
    try:
        urllib.request.urlopen(
            urllib.request.Request(url, method="HEAD"), timeout=HUB_TIMEOUT_S
        ).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            raise ModelError(
                f"the hub answers {error.code} for {name!r}: check the name, and set HF_TOKEN "
                "if the model is gated"
            ) from None
    except OSError as error:
        raise ModelError(
            f"{name!r} is neither a folder nor in the local cache, and the hub cannot be reached "
            f"({getattr(error, 'reason', error)}): give a model folder or try again with a network"
        ) from None


def _fingerprint(path: str, model: torch.nn.Module) -> str:
    """Hash of the weights: commit for a hub model; names, sizes, ends of the files for a folder."""
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return commit
    digest = hashlib.sha256()
    weights = sorted(Path(path).glob("*.safetensors")) + sorted(Path(path).glob("*.bin"))
    for file in [Path(path) / "config.json", *weights]:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(max(size - (1 << 20), 0))
            digest.update(stream.read())
    return digest.hexdigest()

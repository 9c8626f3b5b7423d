"""A run's whole state on disk: tensors as safetensors, everything else as JSON.

In: tensors by group and name, and facts. Out: a folder that is whole or not there; and back,
refusing what is damaged or belongs to another run.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import defaultdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae.config import Refused

TENSORS, FACTS = "state.safetensors", "state.json"


Groups = dict[str, dict[str, Tensor]]


def write(folder: Path, groups: Groups, facts: dict) -> None:
    """Replaces the checkpoint in `folder`; the old one stays until the new one is on disk.

    Refuses a full disk; the old checkpoint is then still good.
    """
    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    for left_over in (part, old):
        if left_over.exists() and (left_over == part or folder.exists()):
            shutil.rmtree(left_over)
    try:
        part.mkdir(parents=True)
        tensors = {
            f"{group}/{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for group, members in groups.items()
            for name, value in members.items()
        }
        save_file(tensors, part / TENSORS)
        (part / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        for path in (part / TENSORS, part / FACTS):
            _sync(path)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if error.errno != errno.ENOSPC:
            raise
        raise Refused(f"the disk is full at {folder}: make room and resume") from None
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    if old.exists():
        shutil.rmtree(old)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read(folder: Path, device: torch.device) -> tuple[Groups, dict]:
    """Tensors by group, on the device, and facts. Refuses a missing or damaged checkpoint.

    Adam counts its steps in a tensor that fused versions want beside the weights.
    """
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():  # killed between the two renames
        old.rename(folder)
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS, device=str(device))
    except FileNotFoundError:
        raise Refused(f"{folder} holds no checkpoint to resume: start the run anew") from None
    except (SafetensorError, OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Refused(f"the checkpoint in {folder} is damaged ({error}): start anew") from None
    groups: Groups = defaultdict(dict)
    for key, value in tensors.items():
        group, name = key.split("/")
        # Cloned: loaded tensors lie at odd addresses, and a product may round by its place.
        groups[group][name] = value.clone()
    return groups, facts


def refuse_different(facts: dict, sae: dict, train: dict) -> None:
    """Raises Refused where a checkpoint was made by another configuration, naming the fields."""
    for kind, now in (("sae", sae), ("train", train)):
        now = json.loads(json.dumps(now))
        then = facts[kind]
        changed = [k for k in {**then, **now} if then.get(k) != now.get(k)]
        if changed:
            told = ", ".join(f"{k} {then.get(k)!r} -> {now.get(k)!r}" for k in sorted(changed))
            raise Refused(f"the checkpoint belongs to another run ({told}): resume with the same")


POSITION = ("rows", "taken")  # what a source's state says of where it stands


def refuse_other_rows(then: dict, now: dict) -> None:
    """Raises Refused where a checkpoint was made on another stream of rows."""
    facts = [{k: v for k, v in state.items() if k not in POSITION} for state in (then, now)]
    if facts[0] != json.loads(json.dumps(facts[1])):
        raise Refused(
            f"the checkpoint was made on other activations ({facts[0]}, now {facts[1]}): resume "
            "with the same source and seed"
        )

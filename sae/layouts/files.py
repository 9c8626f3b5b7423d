"""Files that others wrote, read without trusting them.

In: a path. Out: a dict of JSON values or of tensors. Whatever is missing, damaged, cut short or
hostile becomes a Refused with its reason: pickles are read as weights only, sizes are checked
before memory is taken, and a tensor that claims more numbers than its file holds is refused.
"""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sae.config import Refused

MAX_JSON_BYTES = 2**24
MAX_BYTES = 2**37  # of one file unpacked; the largest published SAEs are about a third of it
# Random weights hardly compress; what shrinks a hundredfold and is large holds nothing.
BOMB_BYTES, BOMB_RATIO = 2**26, 100


def damaged(path: Path, reason: object) -> Refused:
    first = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    return Refused(f"{path} is damaged or cut short ({first[:200]}): copy it again")


def read_json(path: Path, missing: str = "copy the whole folder") -> dict:
    """An object. NaN and Infinity, which are no JSON, read as None."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise Refused(
                f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB: it is no SAE's config"
            )
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        raise Refused(f"{path} is missing: {missing}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    if not isinstance(value, dict):
        raise Refused(f"{path} holds a {type(value).__name__}, not an object: copy it again")
    return value


def read_safetensors(path: Path, missing: str = "copy the whole folder") -> dict[str, Tensor]:
    """Every tensor of a safetensors file; the format itself bounds each by the file's size."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}
    except FileNotFoundError:
        raise Refused(f"{path} is missing: {missing}") from None
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise damaged(path, error) from None


def read_npz(path: Path) -> dict[str, Tensor]:
    """Every array of an npz; arrays of objects, which are pickles, are refused."""
    _check_zip(path)
    _check_arrays(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        return {key: torch.from_numpy(np.ascontiguousarray(a)) for key, a in arrays.items()}
    except TypeError as error:  # strings, dates
        raise Refused(f"{path} holds an array that is no numbers ({error})") from None
    except Exception as error:  # damaged zips raise nearly anything: zlib, struct, ValueError
        raise damaged(path, error) from None


def read_torch(path: Path) -> dict:
    """The state dict in a .pt file: tensors and plain values only, never other pickled objects."""
    _check_zip(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # damaged pickles raise nearly anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Refused(
            f"{path} cannot be read as weights ({first[:160]}): it is damaged, or holds pickled "
            "objects that could run code; ask for a plain state_dict"
        ) from None
    if not isinstance(state, dict):
        raise Refused(f"{path} holds a {type(state).__name__}, not a state_dict of tensors")
    for key, value in state.items():
        if isinstance(value, Tensor):
            _check_storage(path, key, value)
    return state


def pickle_in(path: Path, name: str = "") -> Path:
    """The .pt that `path` is, or that folder's file of that name or its only one."""
    if not path.is_dir():
        return path
    if name and (path / name).is_file():
        return path / name
    files = sorted(path.glob("*.pt"))
    if len(files) != 1:
        raise Refused(f"{path} holds {len(files)} .pt files: name the one to read")
    return files[0]


def _check_zip(path: Path) -> None:
    """Refuses what is no zip, and zips whose contents are absurdly larger than the file."""
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
    except FileNotFoundError:
        raise Refused(f"{path} is missing: copy the whole folder") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise damaged(path, f"{error}; a .pt older than torch 1.6 must be saved again") from None
    total = sum(member.file_size for member in members)
    worst = max(
        (m.file_size / max(m.compress_size, 1) for m in members if m.file_size > BOMB_BYTES),
        default=1,
    )
    if total > MAX_BYTES or worst > BOMB_RATIO:
        raise Refused(
            f"{path} of {path.stat().st_size:,} bytes would unpack to {total:,}: it is no SAE"
        )


def _check_arrays(path: Path) -> None:
    """Refuses an npz with an array whose header claims another size than its member has: numpy
    would take that much memory before it looked."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        with zipfile.ZipFile(path) as file:
            for member in file.infolist():
                with file.open(member) as array:
                    shape, _, dtype = readers[np.lib.format.read_magic(array)](array)
                    if math.prod(shape) * dtype.itemsize + array.tell() != member.file_size:
                        raise ValueError(f"{member.filename} claims {shape} of {dtype}")
    except Exception as error:  # damaged zips raise nearly anything
        raise damaged(path, error) from None


def _check_storage(path: Path, key: object, value: Tensor) -> None:
    """A pickled tensor may claim any shape over a few bytes by strides of 0."""
    if value.layout != torch.strided or value.is_quantized:
        raise Refused(f"{path}: {key} is a sparse or quantised tensor: save it dense")
    claimed = math.prod(value.shape) * value.element_size()
    if claimed > value.untyped_storage().nbytes():
        raise Refused(
            f"{path}: {key} claims {tuple(value.shape)} but holds "
            f"{value.untyped_storage().nbytes():,} bytes: the file is damaged"
        )

"""Against the libraries themselves, where `make peers` has installed them: they load what we save
and encode with the same numbers, and so do we with what they save.

Each library runs once, in its own interpreter, over all cases.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae import formats
from tests.sae.test_formats import some_sae

PEERS = Path(__file__).resolve().parents[2] / ".peers"
D_IN, ROWS = 8, 40
TRAINED = ("jumprelu", "batchtopk", "topk", "gated", "standard")


def _rows() -> torch.Tensor:
    x = torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(5))
    return 3 * x + 0.5


def _run(library: str, work: Path) -> tuple[dict, dict]:
    """What the library made of work/ours, and what it says of work/theirs."""
    python = PEERS / library / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{library} is not installed here (make peers)")
    np.save(work / "x.npy", _rows().numpy())
    script = Path(__file__).with_name(f"peer_{library}.py")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    process = subprocess.run(
        [python, script, work], capture_output=True, text=True, env=environment, cwd=work
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return dict(np.load(work / "read.npz")), dict(np.load(work / "written.npz"))


def _same(sae, f, x_hat, tolerance=1e-5):
    x = _rows()
    ours = sae.encode(x)
    assert (ours > 0).sum() > ROWS, "a comparison of zeros says nothing"
    np.testing.assert_allclose(ours.numpy(), f, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(sae(x).numpy(), x_hat, rtol=tolerance, atol=10 * tolerance)


# ---------------------------------------------------------------- SAELens


OURS = {
    **{name: {"architecture": name} for name in ("jumprelu", "relu", "gated", "topk")},
    "layer_norm": {"architecture": "jumprelu", "token_norm": "layer_norm"},
    "constant_norm": {"architecture": "topk", "token_norm": "constant_norm_rescale"},
    "heads": {"architecture": "jumprelu"},
    "transcoder": {"architecture": "relu", "d_out": 4},
    "jump_transcoder": {"architecture": "jumprelu", "d_out": D_IN},
    "skip": {"architecture": "relu", "d_out": 4, "skip": True},
    "jump_skip": {"architecture": "jumprelu", "d_out": 5, "skip": True},
}
OLD = {  # files of before 6.0 are flat
    "old_standard": {"hook_point": "blocks.3.hook_resid_pre", "normalize_activations": False},
    "old_topk": {
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "hook_name": "blocks.3.hook_mlp_out",
        "apply_b_dec_to_input": False,
    },
    "old_jumprelu": {"architecture": "jumprelu", "hook_name": "blocks.1.attn.hook_k"},
}


@pytest.fixture(scope="session")
def saelens(tmp_path_factory):
    work = tmp_path_factory.mktemp("saelens")
    for name, shape in OURS.items():
        (work / "ours" / name).mkdir(parents=True)
        hook = "blocks.2.attn.hook_z" if name == "heads" else "blocks.2.hook_resid_post"
        about = {"model_name": "gpt2", "hook_name": hook, "workbench": {"site": "resid_post.2"}}
        formats.save(some_sae(**shape, d_in=D_IN), work / "ours" / name, about)
    for name, cfg in OLD.items():
        folder = work / "ours" / name
        folder.mkdir(parents=True)
        kind = "jumprelu" if name == "old_jumprelu" else "relu"
        tensors = some_sae(kind, d_in=D_IN).state_dict()
        save_file({key: value.contiguous() for key, value in tensors.items()},
                  folder / formats.WEIGHTS)  # fmt: skip
        common = {"d_in": D_IN, "d_sae": 10, "dtype": "torch.float32", "model_name": "gpt2-small",
                  "context_size": 128}  # fmt: skip
        (folder / formats.CONFIG).write_text(json.dumps(common | cfg))
    return work, *_run("saelens", work)


@pytest.mark.parametrize("name", OURS)
def test_saelens_loads_what_we_save_and_gives_the_same_numbers(saelens, name):
    work, read, _ = saelens
    sae, _ = formats.load(work / "ours" / name)
    _same(sae, read[f"{name}:f"], read[f"{name}:x_hat"])
    about = json.loads(str(read[f"{name}:metadata"]))
    assert about["model_name"] == "gpt2", "SAELens keeps the metadata of a file of its version"


@pytest.mark.parametrize("name", OLD)
def test_files_of_before_6_0_give_saelens_numbers(saelens, name):
    work, read, _ = saelens
    sae, facts = formats.read(work / "ours" / name)
    _same(sae, read[f"{name}:f"], read[f"{name}:x_hat"])
    assert facts["format"] == "saelens" and facts["model"] == "gpt2-small"
    site = {"old_standard": "resid_post.2", "old_topk": "mlp_out.3", "old_jumprelu": None}
    assert facts["site"] == site[name] and facts["context_size"] == 128


@pytest.mark.parametrize(
    "name",
    [
        "standard", "standard_no_b_dec", "jumprelu", "gated", "topk", "topk_by_norm", "layer_norm",
        "constant_norm", "transcoder", "skip", "jump_skip",
        *(f"trained_{name}" for name in TRAINED),
    ],
)  # fmt: skip
def test_we_load_what_saelens_saves(saelens, name):
    work, _, written = saelens
    sae, _ = formats.read(work / "theirs" / name)
    _same(sae, written[f"{name}:f"], written[f"{name}:x_hat"])
    transcoder = "skip" in name or name == "transcoder"
    assert (sae.config.d_out is not None) == transcoder


@pytest.mark.parametrize("name", TRAINED)
def test_a_scale_beside_a_checkpoint_is_folded_as_saelens_folds_it(saelens, name):
    work, _, written = saelens
    sae, _ = formats.load(work / "theirs" / f"checkpoint_{name}")
    key = f"checkpoint_{name}"
    _same(sae, written[f"{key}:f"], written[f"{key}:x_hat"])


# ---------------------------------------------------------------- dictionary_learning


CLASSES = {
    "jumprelu": "JumpReluAutoEncoder",
    "relu": "AutoEncoderNew",
    "gated": "GatedAutoEncoder",
    "topk": "AutoEncoderTopK",
}
THEIRS = ("AutoEncoder", *CLASSES.values(), "BatchTopKSAE", "MatryoshkaBatchTopKSAE")


@pytest.fixture(scope="session")
def dictionary_learning(tmp_path_factory):
    work = tmp_path_factory.mktemp("dictionary_learning")
    for name in CLASSES:
        (work / "ours" / name).mkdir(parents=True)
        formats.write(some_sae(name, d_in=D_IN), work / "ours" / name, "dictionary_learning", {})
    return work, *_run("dictionary_learning", work)


@pytest.mark.parametrize("name", CLASSES)
def test_dictionary_learning_loads_what_we_export(dictionary_learning, name):
    _, read, _ = dictionary_learning
    assert str(read[f"{name}:class"]) == CLASSES[name]
    _same(some_sae(name, d_in=D_IN), read[f"{name}:f"], read[f"{name}:x_hat"])


@pytest.mark.parametrize("name", THEIRS)
def test_we_read_every_class_of_dictionary_learning(dictionary_learning, name):
    work, _, written = dictionary_learning
    sae, facts = formats.read(work / "theirs" / name)
    _same(sae, written[f"{name}:f"], written[f"{name}:x_hat"])
    assert facts["class"] == name and facts["site"] == "resid_post.3" and facts["note"] is None
    assert facts["model"] == "EleutherAI/pythia-70m-deduped" and facts["context_size"] == 128

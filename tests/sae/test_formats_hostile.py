"""Files nobody should trust: cut short, turned over, bombs, pickles that run code.

Whatever is done to a file of any format, reading it ends in an SAE or in a Refused, never in
another error, never in running code, and never in taking absurd memory.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae import formats
from sae.config import Refused
from tests.sae import test_formats_foreign as foreign
from tests.sae.test_formats import some_sae


def _saelens(folder: Path) -> None:
    folder.mkdir()
    formats.save(some_sae("gated"), folder, {"model_name": "demo"})


MAKERS = {
    "saelens": (_saelens, "sae_weights.safetensors"),
    "sparsify": (foreign.sparsify, "sae.safetensors"),
    "gemma_scope": (lambda folder: foreign.npz(folder / "params.npz"), "params.npz"),
    "gemma_scope_2": (lambda folder: foreign.params_2(folder, {}), "params.safetensors"),
    "llamascopium": (
        lambda folder: foreign.llamascopium(folder, {foreign.HOOK: 3.0}),
        "sae_weights.safetensors",
    ),
    "openai": (lambda folder: foreign.openai(folder / "7.pt"), "7.pt"),
    "dictionary_learning": (foreign.batch_topk, "ae.pt"),
}


@pytest.fixture(params=MAKERS)
def made(request, tmp_path) -> tuple[str, Path]:
    """(format, its weights file) of a sound folder."""
    maker, weights = MAKERS[request.param]
    maker(tmp_path / "sae")
    assert formats.read(tmp_path / "sae")[1]["format"] == request.param
    return request.param, tmp_path / "sae" / weights


def refused(place: Path, format: str = "auto") -> str:
    with pytest.raises(Refused) as caught:
        formats.read(place, format)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 1200, message
    return message


def test_a_file_cut_anywhere_is_refused(made):
    format, weights = made
    whole = weights.read_bytes()
    for kept in sorted({0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1}):
        weights.write_bytes(whole[:kept])
        assert weights.name in refused(weights, format)
    weights.unlink()
    refused(weights.parent, format)


def test_turned_bytes_give_an_sae_or_a_refusal(made):
    """Every header byte, and some of the rest, turned over one at a time."""
    format, weights = made
    whole = bytearray(weights.read_bytes())
    rng = np.random.default_rng(0)
    outcomes = set()
    for place in rng.permutation(len(whole))[:150].tolist() + list(range(0, 120, 3)):
        damaged = whole.copy()
        damaged[place] ^= int(rng.integers(1, 256))
        weights.write_bytes(damaged)
        try:
            sae, _ = formats.read(weights, format)
            assert all(bool(torch.isfinite(p).all()) for p in sae.parameters())
            outcomes.add("read")
        except Refused:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_numbers_that_are_not_finite_are_refused(made):
    format, weights = made
    if weights.suffix == ".npz":
        with np.load(weights) as file:
            arrays = dict(file)
        arrays["b_enc"][2] = np.nan
        np.savez(weights, **arrays)
    elif weights.suffix == ".safetensors":
        tensors = formats.saelens.read_safetensors(weights)
        name = next(key for key in tensors if tensors[key].ndim == 2)
        tensors = {key: value.clone() for key, value in tensors.items()}
        tensors[name][1, 1] = torch.inf
        save_file(tensors, weights)
    else:
        state = dict(torch.load(weights, weights_only=True))
        state["encoder.weight"][1, 1] = torch.nan
        torch.save(state, weights)
    assert "not finite" in refused(weights, format)


JSON = (
    "", "{", "[]", "null", "\x00", "\ud800", "[" * 100_000, '{"d_in": ' + "9" * 5000 + "}",
    '{"k": 1e999}', '{"trainer": 3, "metadata": [], "k": "x", "d_in": {}}',
)  # fmt: skip


@pytest.mark.parametrize("format", ["saelens", "sparsify", "llamascopium", "gemma_scope_2",
                                    "dictionary_learning"])  # fmt: skip
def test_broken_configs_are_refused_or_do_without(tmp_path, format):
    MAKERS[format][0](tmp_path / "sae")
    (config,) = (tmp_path / "sae").glob("*.json")
    for text in JSON:
        config.write_bytes(text.encode("utf-8", "surrogatepass"))
        if format == "gemma_scope_2" and text in JSON[-2:]:
            formats.read(tmp_path / "sae")  # it needs nothing of its config
            continue
        refused(tmp_path / "sae", format)


FIELDS = {
    "saelens": ("architecture", "d_in", "d_sae", "d_out", "k", "dtype", "metadata",
                "normalize_activations", "apply_b_dec_to_input", "activation_fn_str"),
    "sparsify": ("k", "activation", "transcode", "signed"),
    "llamascopium": ("sae_type", "d_model", "act_fn", "top_k", "hook_point_in", "hook_point_out",
                     "norm_activation", "dataset_average_activation_norm", "use_decoder_bias"),
    "gemma_scope_2": ("architecture", "model_name", "hf_hook_point_in", "hf_hook_point_out", "l0"),
    "dictionary_learning": ("trainer", "buffer"),
}  # fmt: skip


@pytest.mark.parametrize("format", FIELDS)
def test_any_value_in_any_field_gives_an_sae_or_a_refusal(tmp_path, format):
    MAKERS[format][0](tmp_path / "sae")
    (config,) = (tmp_path / "sae").glob("*.json")
    cfg = json.loads(config.read_text())
    values = (None, True, -1, 2**70, 0.5, "", "x", [], [1], {}, {"in": "x"})
    for field in FIELDS[format]:
        for value in values:
            config.write_text(json.dumps(cfg | {field: value}))
            try:
                _, facts = formats.read(tmp_path / "sae", format)
                json.dumps(facts, allow_nan=False)
                assert isinstance(facts["model"], str | None)
                assert isinstance(facts["l0"], int | float | None)
            except Refused:
                pass


# ---------------------------------------------------------------- pickles


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("format", ["openai", "dictionary_learning", "auto"])
def test_a_pickle_that_runs_code_is_not_run(tmp_path, format):
    state = {"encoder.weight": Runs(tmp_path / "ran"), "pre_bias": 0, "latent_bias": 0}
    torch.save(state, tmp_path / "a.pt")
    assert "could run code" in refused(tmp_path / "a.pt", format)
    (tmp_path / "b.pt").write_bytes(pickle.dumps(state))
    assert "damaged" in refused(tmp_path / "b.pt", format)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "ran").exists(), "the trap would have worked"


def test_a_module_instead_of_its_weights_is_refused(tmp_path):
    torch.save(some_sae(), tmp_path / "a.pt")
    assert "plain state_dict" in refused(tmp_path / "a.pt")
    torch.save([torch.zeros(3)], tmp_path / "a.pt")
    assert "holds a list" in refused(tmp_path / "a.pt")


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    trap = np.empty(1, dtype=object)
    trap[0] = Runs(tmp_path / "ran")
    np.savez(tmp_path / "params.npz", W_enc=trap)
    refused(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_an_array_of_words_is_refused(tmp_path):
    foreign.npz(tmp_path / "params.npz")
    with np.load(tmp_path / "params.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "params.npz", **(arrays | {"b_enc": np.array(["x"] * 10)}))
    assert "no numbers" in refused(tmp_path)
    np.savez(tmp_path / "params.npz", **(arrays | {"b_enc": np.arange(10)}))
    assert "int64, not a tensor of floats" in refused(tmp_path)


# ---------------------------------------------------------------- absurd sizes


@pytest.fixture
def little_memory():
    """At most 2 GiB more than now, so that taking what a file claims would fail loudly."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_tensor_that_repeats_a_few_bytes_is_refused(tmp_path, little_memory):
    state = foreign.openai(tmp_path / "a.pt")
    wide = torch.zeros(1).expand(2**22, 2**20)
    torch.save(state | {"encoder.weight": wide, "decoder.weight": wide.T}, tmp_path / "a.pt")
    assert "claims (4194304, 1048576) but holds 4 bytes" in refused(tmp_path / "a.pt")


def test_a_sparse_tensor_is_refused(tmp_path):
    state = foreign.openai(tmp_path / "a.pt")
    torch.save(state | {"encoder.weight": torch.eye(3).to_sparse()}, tmp_path / "a.pt")
    assert "save it dense" in refused(tmp_path / "a.pt")


def test_a_config_that_claims_a_huge_sae_takes_no_memory(tmp_path, little_memory):
    _saelens(tmp_path / "sae")
    path = tmp_path / "sae/cfg.json"
    cfg = json.loads(path.read_text())
    path.write_text(json.dumps(cfg | {"d_in": 2**22, "d_sae": 2**22}))
    assert "W_enc is (6, 10), but d_in 4194304" in refused(tmp_path / "sae")


def test_an_array_whose_header_claims_more_than_it_has_is_refused(tmp_path, little_memory):
    foreign.npz(tmp_path / "params.npz")
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**20)}
    with zipfile.ZipFile(tmp_path / "params.npz", "a") as file:
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, header)
        file.writestr("scaling_factor.npy", buffer.getvalue() + b"\0" * 64)
    assert "claims (1048576, 1048576)" in refused(tmp_path)


def test_a_zip_bomb_is_refused_unopened(tmp_path, little_memory):
    for name in ("params.npz", "ae.pt"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as file:
            with file.open("W_enc.npy", "w", force_zip64=True) as member:
                for _ in range(80):
                    member.write(bytes(2**20))
    for format in ("gemma_scope", "dictionary_learning"):
        assert "would unpack to" in refused(tmp_path, format)


def test_a_safetensors_header_of_terabytes_is_refused(tmp_path, little_memory):
    _saelens(tmp_path / "sae")
    weights = tmp_path / "sae/sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(struct.pack("<Q", 2**40) + whole[8:])
    assert "damaged" in refused(tmp_path / "sae")
    text = json.dumps(
        {"W_enc": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}
    ).encode()
    weights.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    assert "damaged" in refused(tmp_path / "sae")


def test_a_huge_json_is_refused_unread(tmp_path, little_memory):
    _saelens(tmp_path / "sae")
    with (tmp_path / "sae/cfg.json").open("wb") as file:
        file.truncate(2**33)  # sparse: no disk is used
    assert "larger than 16 MiB" in refused(tmp_path / "sae")

"""Taking SAEs in and giving them out: from files to a workspace in which the other commands work,
and back; trees, the hub, and everything that is refused without a trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import run
from commands import import_
from data.activations import ActivationCache
from sae import formats
from sae.models import JumpReLUSAE
from tests import tiny
from tests.sae.test_formats import some_sae

TREE = "google/gemma-scope-2b-pt-{}/layer_{}/width_16k/average_l0_{}"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("import") / "model")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    return tiny.write_jsonl(folder / "text.jsonl", tiny.sentences(150))


def _sae(d_in=tiny.WIDTH, seed=0, **shape) -> JumpReLUSAE:
    return some_sae(d_in=d_in, d_sae=32, seed=seed, **shape)


def _npz(folder: Path, seed=0, d_in=tiny.WIDTH) -> JumpReLUSAE:
    folder.mkdir(parents=True)
    formats.write(_sae(d_in, seed), folder, "gemma_scope", {})
    return _sae(d_in, seed)


def _do(workspace, *words: object) -> int:
    return run.main([*map(str, words), "--workspace", str(workspace.root)])


def _refused(capsys, workspace, *words: object) -> str:
    before = sorted(workspace.root.rglob("*"))
    capsys.readouterr()
    assert _do(workspace, *words) == 2
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1 and told.out == "", told
    assert sorted(workspace.root.rglob("*")) == before, "something was left"
    return told.err


def _same(a, b):
    x = 3 * torch.randn(50, a.d_in, generator=torch.Generator().manual_seed(3))
    assert (a.encode(x) > 0).any()
    torch.testing.assert_close(a.encode(x), b.encode(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a(x), b(x), rtol=1e-5, atol=1e-4)


# ---------------------------------------------------------------- import


def test_an_sae_without_its_model_is_taken_in_and_says_what_it_lacks(tmp_path, workspace, capsys):
    sae = _npz(tmp_path / TREE.format("res", 12, 82))
    assert _do(workspace, "import", tmp_path / TREE.format("res", 12, 82)) == 0
    told = capsys.readouterr().out
    name = "gemma-2-2b-res-layer12-width16k-l0-82"
    assert workspace.saes == [name] and "import it with --lm" in told
    assert "jumprelu SAE of 32 features, 24 wide, at resid_post.12, from gemma_scope" in told
    back, config = formats.load(workspace.sae(name))
    _same(back, sae)
    about = config["metadata"]
    assert about["model_name"] == "google/gemma-2-2b" and about["l0"] == 82
    assert about["hook_name"] == "blocks.12.hook_resid_post" and about["context_size"] == 1024
    assert about["imported"]["format"] == "gemma_scope"
    assert about["imported"]["from"] == str(tmp_path / TREE.format("res", 12, 82))
    assert about["workbench"] == {"site": "resid_post.12"}
    for command in ("evaluate", "harvest"):
        told = _refused(capsys, workspace, command, name)
        assert "does not record its lm, lm_weights" in told and "--lm MODEL" in told


def test_an_sae_with_its_model_can_be_evaluated_and_harvested(
    tmp_path, workspace, model, text, capsys
):
    path = tmp_path / "params.npz"
    _npz(tmp_path / "a")
    shutil.move(tmp_path / "a/params.npz", path)
    words = ["--name", "one", "--lm", model, "--site", "resid_post.1", "--text", text]
    words += ["--context", 16, "--tokens", 2000, "--device", "cpu"]
    assert _do(workspace, "import", path, *words) == 0
    assert "import it with" not in capsys.readouterr().out
    assert _do(workspace, "evaluate", "one", "--device", "cpu") == 0
    assert workspace.metrics("one")["n_tokens"] > 50
    made = workspace.config("one")["metadata"]["workbench"]
    assert made["site"] == "resid_post.1" and made["lm"] == str(model)
    (cache,) = (workspace.root / "activations").iterdir()
    mask = ActivationCache(cache).manifest["mask"]
    assert made["mask"] == json.loads(json.dumps(mask)), "one rule, here and there"
    assert mask["norm_limit"] > 0
    assert _do(workspace, "harvest", "one", "--top", 2, "--device", "cpu") == 0
    assert (workspace.sae("one") / "features.duckdb").exists()
    from interp.engine import open_engine

    engine = open_engine(workspace.sae("one"), "cpu")
    assert engine.mask.norm_limit == mask["norm_limit"]


def test_importing_twice_gives_the_same_bytes(tmp_path, workspace):
    _npz(tmp_path / "x")
    for _ in range(2):
        assert _do(workspace, "import", tmp_path / "x", "--name", "a", "--replace") == 0
        now = {p.name: p.read_bytes() for p in workspace.sae("a").iterdir()}
    assert _do(workspace, "import", tmp_path / "x", "--name", "a", "--replace") == 0
    assert {p.name: p.read_bytes() for p in workspace.sae("a").iterdir()} == now
    assert sorted(now) == ["cfg.json", "sae_weights.safetensors"]


def test_a_whole_tree_in_one_command_with_names_from_the_paths(tmp_path, workspace, capsys):
    made = {}
    for number, (kind, layer, l0) in enumerate(
        [("res", 3, 5), ("res", 3, 80), ("att", 7, 40), ("mlp", 0, 9)]
    ):
        sae = _npz(tmp_path / TREE.format(kind, layer, l0), seed=number)
        made[f"gemma-2-2b-{kind}-layer{layer}-width16k-l0-{l0}"] = sae
    damaged = tmp_path / TREE.format("res", 9, 1)
    _npz(damaged)
    whole = (damaged / "params.npz").read_bytes()
    (damaged / "params.npz").write_bytes(whole[:500])
    assert _do(workspace, "import", tmp_path / "google") == 2
    told = capsys.readouterr()
    assert workspace.saes == sorted(made)
    assert "imported 4 of 5 SAEs" in told.out
    assert len(told.err.splitlines()) == 1 and "average_l0_1/params.npz is damaged" in told.err
    for name, sae in made.items():
        _same(formats.load(workspace.sae(name))[0], sae)
    sites = {name: workspace.config(name)["metadata"]["workbench"]["site"] for name in made}
    assert sorted(sites.values()) == ["attn_z.7", "mlp_out.0", "resid_post.3", "resid_post.3"]
    source = workspace.config("gemma-2-2b-att-layer7-width16k-l0-40")["metadata"]["imported"]
    assert source["from"].endswith(TREE.format("att", 7, 40))
    (damaged / "params.npz").write_bytes(whole)
    assert _do(workspace, "import", tmp_path / "google", "--replace", "--name", "g") == 0
    assert len(workspace.saes) == 9
    assert "g-gemma-2-2b-res-layer9-width16k-l0-1" in workspace.saes


def test_places_that_say_nothing_are_named_after_themselves(tmp_path, workspace):
    for run_name in ("run a", "run b"):
        _npz(tmp_path / "mine" / run_name / "sae")
    assert _do(workspace, "import", tmp_path / "mine") == 0
    label = tmp_path.name  # the last two parts of the path
    assert workspace.saes == [f"{label}-mine-run-a-sae", f"{label}-mine-run-b-sae"]


def test_two_saes_of_one_name_in_a_tree_are_not_laid_over_each_other(tmp_path, workspace, capsys):
    for copy in ("first", "second"):
        _npz(tmp_path / copy / TREE.format("res", 3, 5), seed=len(copy))
    assert _do(workspace, "import", tmp_path, "--replace") == 2
    assert "is called gemma-2-2b-res-layer3-width16k-l0-5 already" in capsys.readouterr().err
    _same(formats.load(workspace.sae(workspace.saes[0]))[0], _sae(seed=5))


def test_a_transcoder_records_both_sites(tmp_path, workspace, model, text, capsys):
    folder = tmp_path / TREE.format("transcoders", 1, 6)
    _npz(folder)
    words = ["--lm", model, "--text", text, "--context", 16, "--device", "cpu", "--name", "t"]
    told = _refused(capsys, workspace, "import", folder, *words)
    assert "pre_feedforward_layernorm" in told, "a Llama has no such module"
    site = "hook:model.layers.1.post_attention_layernorm:output"
    assert _do(workspace, "import", folder, *words, "--site", site) == 0
    assert "jumprelu transcoder of 32 features, 24 wide, 24 wide out" in capsys.readouterr().out
    made = workspace.config("t")["metadata"]["workbench"]
    assert (made["site"], made["site_out"]) == (site, "mlp_out.1")
    assert formats.load(workspace.sae("t"))[0].config.d_out == 24


def test_what_an_saelens_file_says_is_kept(tmp_path, workspace):
    (tmp_path / "x").mkdir()
    about = {"model_name": "gpt2-small", "hook_name": "blocks.1.hook_mlp_out", "dataset_path": "d",
             "neuronpedia_id": "gpt2-small/1-x", "l0": 12.5}  # fmt: skip
    formats.save(_sae(), tmp_path / "x", about)
    assert _do(workspace, "import", tmp_path / "x/cfg.json", "--name", "a") == 0
    metadata = workspace.config("a")["metadata"]
    assert about.items() <= metadata.items()
    assert metadata["workbench"] == {"site": "mlp_out.1"}


def test_a_note_of_the_reader_is_told_and_kept(tmp_path, workspace, capsys):
    formats.write(some_sae("topk"), tmp_path, "dictionary_learning", {})
    config = json.loads((tmp_path / "config.json").read_text())
    config["trainer"]["dict_class"] = "BatchTopKSAE"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert _do(workspace, "import", tmp_path, "--name", "a") == 0
    assert "BatchTopKSAE without its threshold" in capsys.readouterr().out
    assert "read as TopK" in workspace.config("a")["metadata"]["imported"]["note"]


def test_imports_that_are_refused_leave_nothing(tmp_path, workspace, model, text, capsys):
    folder = tmp_path / "x"
    _npz(folder)
    lm = ["--lm", model, "--text", text, "--context", 16, "--device", "cpu"]
    for words, says in (
        ([tmp_path / "nowhere"], "no file or folder at"),
        ([folder, "--format", "npz"], "format 'npz' is unknown"),
        ([folder, "--name", "a/b"], "cannot be a name"),
        ([folder, "--name", "a", *lm], "give --site"),
        ([folder, "--name", "a", *lm, "--site", "resid_post.9"], "no layer 9"),
        ([folder, "--name", "a", *lm, "--site", "attn_z"], "no site 'attn_z'"),
        ([folder, "--lm", tmp_path, "--site", "resid_post.1"], "holds no config.json"),
        ([folder, *lm, "--site", "resid_post.1", "--context", 999], "longer than the 64 tokens"),
        ([text.parent], "is no SAE of a known format; seen there: text.jsonl"),
    ):
        assert says in _refused(capsys, workspace, "import", *words), words
    _npz(tmp_path / "narrow", d_in=7)
    told = _refused(capsys, workspace, "import", tmp_path / "narrow", *lm, "--site", "resid_post.1")
    assert "width 7, but resid_post.1" in told and "24 wide" in told
    assert _do(workspace, "import", folder, "--name", "a") == 0
    assert "exists already" in _refused(capsys, workspace, "import", folder, "--name", "a")


# ---------------------------------------------------------------- the hub


FILES = [
    "README.md",
    "config.json",
    "layer_12/width_16k/average_l0_82/params.npz",
    "layer_12/width_16k/average_l0_82/hparams.json",
    "layer_12/width_16k/average_l0_8/params.npz",
    "layer_13/width_16k/average_l0_84/params.npz",
]


def test_without_a_network_the_cache_is_asked_or_one_sentence_says_so(
    tmp_path, workspace, monkeypatch, capsys
):
    monkeypatch.setattr("data.hub.status", lambda path: (None, "no route"))
    place = "google/gemma-scope-2b-pt-res:layer_12/width_16k/average_l0_82"
    told = _refused(capsys, workspace, "import", place)
    assert "neither a path nor in the local cache" in told and "(no route)" in told
    snapshot = tmp_path / "models--google--gemma-scope-2b-pt-res/snapshots/0a"

    def cached(repo, revision, local_files_only):
        assert local_files_only
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", cached)
    assert "neither a path" in _refused(capsys, workspace, "import", place), "another folder of it"
    _npz(snapshot / place.partition(":")[2])
    assert _do(workspace, "import", place) == 0
    assert workspace.saes == ["gemma-2-2b-res-layer12-width16k-l0-82"]


def test_a_hub_folder_is_fetched_and_nothing_else(tmp_path, workspace, monkeypatch):
    commit = "0a" * 20
    snapshot = tmp_path / "models--google--gemma-scope-2b-pt-res/snapshots" / commit
    asked = {}

    class Api:
        def list_repo_files(self, repo, revision):
            asked["listed"] = (repo, revision)
            return FILES

    def download(repo, revision, allow_patterns):
        asked["patterns"] = allow_patterns
        for file in allow_patterns:
            if file.endswith(".npz"):
                _npz((snapshot / file).parent)
        return str(snapshot)

    monkeypatch.setattr("data.hub.status", lambda path: (200, ""))
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    place = "google/gemma-scope-2b-pt-res:layer_12/width_16k/average_l0_82"
    assert _do(workspace, "import", f"{place}@main") == 0
    assert asked["listed"] == ("google/gemma-scope-2b-pt-res", "main")
    assert sorted(asked["patterns"]) == sorted([FILES[1], FILES[2], FILES[3]])
    name = "gemma-2-2b-res-layer12-width16k-l0-82"
    assert workspace.saes == [name]
    imported = workspace.config(name)["metadata"]["imported"]
    assert imported["from"] == f"{place}@{commit}"


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("layer_99", "has no SAE at 'layer_99'; it has layer_12/width_16k"),
        ("", "has no SAE at 'its top'; it has layer_12/width_16k/average_l0_8,"),
        ("layer_1", "has no SAE at 'layer_1'"),
    ],
)
def test_a_hub_folder_that_is_not_there_names_some_that_are(folder, says):
    from data.errors import ModelError

    with pytest.raises(ModelError) as caught:
        import_._wanted("google/gemma-scope-2b-pt-res", folder, FILES)
    assert says in str(caught.value)


def test_a_hub_that_refuses_is_one_sentence(workspace, monkeypatch, capsys):
    class Api:
        def list_repo_files(self, repo, revision):
            raise OSError("401 Client Error.\nRepository Not Found")

    monkeypatch.setattr("data.hub.status", lambda path: (401, ""))
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    told = _refused(capsys, workspace, "import", "nobody/nothing:x")
    assert "does not give 'nobody/nothing' (401 Client Error.)" in told and "HF_TOKEN" in told


# ---------------------------------------------------------------- export


def _made(workspace, name="one", **shape):
    sae = some_sae(d_sae=32, **shape)
    about = {"model_name": "demo", "workbench": {"site": "resid_post.2"}}
    with workspace.new_sae(name) as folder:
        formats.save(sae, folder, about)
    return sae


@pytest.mark.parametrize("format", formats.WRITERS)
@pytest.mark.parametrize("architecture", ["jumprelu", "relu", "gated"])
def test_what_is_exported_and_imported_again_encodes_the_same(
    tmp_path, workspace, format, architecture
):
    sae = _made(workspace, architecture=architecture)
    out = tmp_path / "new" / "folder"
    assert _do(workspace, "export", "one", "--format", format, "--out", out) == 0
    assert _do(workspace, "import", out, "--name", "back") == 0
    back, config = formats.load(workspace.sae("back"))
    _same(back, sae)
    if format in ("saelens", "gated"):
        assert config["metadata"]["workbench"]["site"] == "resid_post.2"
    if format == "gated":
        assert back.architecture == "gated"
    assert [p.name for p in out.parent.iterdir()] == ["folder"]


def test_exports_that_are_refused_leave_nothing(tmp_path, workspace, capsys):
    _made(workspace, architecture="topk")
    out = tmp_path / "out"
    for words, says in (
        (["one"], "give --out DIR"),
        (["two", "--out", out], "no SAE 'two'"),
        (["one", "--format", "gemma_scope", "--out", out], "--format saelens"),
        (["one", "--format", "gated", "--out", out], "--format saelens"),
        (["one", "--format", "onnx", "--out", out], "'onnx' is unknown: use one of saelens"),
        (["one", "--out", tmp_path], "exists already"),
    ):
        assert says in _refused(capsys, workspace, "export", *words), words
        assert not out.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["workspace"]


def test_the_exported_files_are_those_the_format_has(tmp_path, workspace, capsys):
    _made(workspace)
    for format, files in (
        ("saelens", "cfg.json, sae_weights.safetensors"),
        ("gemma_scope", "params.npz"),
        ("dictionary_learning", "ae.pt, config.json"),
    ):
        out = tmp_path / format
        assert _do(workspace, "export", "one", "--format", format, "--out", out) == 0
        assert capsys.readouterr().out == f"wrote {out}: {files}\n"
    with np.load(tmp_path / "gemma_scope/params.npz") as file:
        assert file["W_enc"].dtype == np.float32 and file["W_enc"].shape == (6, 32)

"""Hooks against hidden states and hand-made sub-layers; loading a model, and its errors."""

import socket
import time

import pytest
import torch

from data import lm as language_models
from data.errors import ModelError, SiteError
from data.sites import locate, transformer_lens_name
from tests import tiny

IDS = torch.tensor([[0, 5, 70, 300, 9, 12], [0, 8, 8, 120, 44, 2]])


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def lm(request):
    return tiny.language_model(request.param)


def _parts(lm, layer):
    """The block and the function that turns heads z and the stream before it into (attention's
    addition, the MLP's addition), written out by hand."""
    family = lm.fingerprint.split("-")[0]
    if family == "gpt2":
        block = lm.model.transformer.h[layer]
        w = block.attn.c_proj

        def run(z, before):
            attention = z @ w.weight + w.bias
            return attention, block.mlp(block.ln_2(before + attention))

        return block, run
    if family == "gpt_neox":
        block = lm.model.gpt_neox.layers[layer]
        w = block.attention.dense

        def run(z, before):  # attention and MLP side by side
            return z @ w.weight.T + w.bias, block.mlp(block.post_attention_layernorm(before))

        return block, run
    block = lm.model.model.layers[layer]
    w = block.self_attn.o_proj

    def run(z, before):
        attention = z @ w.weight.T
        if family == "gemma2":
            attention = block.post_attention_layernorm(attention)
            middle = block.pre_feedforward_layernorm(before + attention)
            return attention, block.post_feedforward_layernorm(block.mlp(middle))
        return attention, block.mlp(block.post_attention_layernorm(before + attention))

    return block, run


@pytest.mark.parametrize("layer", range(tiny.LAYERS))
def test_sites_add_up_to_the_models_own_hidden_states(lm, layer):
    sites = [f"attn_z.{layer}", f"mlp_out.{layer}", f"resid_post.{layer}"]
    found = lm.capture(IDS, sites)
    hidden = lm.model(input_ids=IDS, output_hidden_states=True).hidden_states
    before = hidden[layer]
    z, mlp, after = (found[site] for site in sites)
    attention, by_hand = _parts(lm, layer)[1](z, before)
    torch.testing.assert_close(mlp, by_hand, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(before + attention + mlp, after, rtol=1e-4, atol=1e-5)
    if layer < tiny.LAYERS - 1:  # the last hidden state has the final norm on it
        assert torch.equal(after, hidden[layer + 1])
    assert mlp.abs().max() > 0.01 and attention.abs().max() > 0.01


def test_heads_before_projection_are_wider_than_the_stream_where_the_model_says_so(lm):
    z = lm.capture(IDS, ["attn_z.1"])["attn_z.1"]
    wide = lm.fingerprint.startswith("gemma")
    assert z.shape == (*IDS.shape, 36 if wide else tiny.WIDTH)


def test_one_pass_for_several_sites_equals_one_pass_each(lm):
    sites = ["resid_post.0", "attn_z.2", "mlp_out.1"]
    together = lm.capture(IDS, sites)
    for site in sites:
        assert torch.equal(together[site], lm.capture(IDS, [site])[site])


def test_a_shared_block_is_read_at_its_first_run():
    lm = tiny.language_model("llama")
    lm.model.model.layers[1] = lm.model.model.layers[0]
    alone = lm.capture(IDS, ["resid_post.0"])["resid_post.0"]
    together = lm.capture(IDS, ["resid_post.0", "resid_post.2"])["resid_post.0"]
    assert torch.equal(alone, together)


@pytest.mark.parametrize("site", ["resid_post.1", "mlp_out.1", "attn_z.1"])
def test_replacing_by_itself_changes_nothing_and_by_zeros_changes_the_logits(lm, site):
    plain = lm.logits(IDS)
    assert torch.equal(lm.logits_replacing(IDS, site, lambda x: x.clone()), plain)
    changed = lm.logits_replacing(IDS, site, torch.zeros_like)
    assert (changed - plain).abs().max() > 0.01
    assert torch.equal(lm.logits(IDS), plain), "a hook was left on the model"


def test_zeros_in_the_last_residual_give_the_norms_and_heads_answer_to_zeros(lm):
    got = lm.logits_replacing(IDS, f"resid_post.{tiny.LAYERS - 1}", torch.zeros_like)
    assert torch.equal(got, got[:1, :1].expand_as(got)), "every position sees the same zeros"


def test_layers_after_the_site_do_not_run(lm):
    ran = []
    blocks = [_parts(lm, i)[0] for i in range(tiny.LAYERS)]
    handles = [
        b.register_forward_pre_hook(lambda m, a, i=i: ran.append(i)) for i, b in enumerate(blocks)
    ]
    head = lm.model.get_output_embeddings()
    handles.append(head.register_forward_pre_hook(lambda m, a: ran.append("head")))
    try:
        lm.capture(IDS, ["attn_z.0", "mlp_out.0"])
        assert ran == [0]
        ran.clear()
        lm.capture(IDS, ["resid_post.1"])
        assert ran == [0, 1]
        ran.clear()
        lm.logits(IDS)
        assert ran == [0, 1, 2, "head"], "the whole model still runs when nothing is captured"
    finally:
        for handle in handles:
            handle.remove()


def test_hook_paths_reach_any_module_on_either_side(lm):
    path = locate(lm.model, "resid_post.1").path
    after = lm.capture(IDS, [f"hook:{path}:output"])[f"hook:{path}:output"]
    assert torch.equal(after, lm.capture(IDS, ["resid_post.1"])["resid_post.1"])
    before = lm.capture(IDS, [f"hook:{path}:input"])[f"hook:{path}:input"]
    assert torch.equal(before, lm.capture(IDS, ["resid_post.0"])["resid_post.0"])
    zeroed = lm.logits_replacing(IDS, f"hook:{path}:input", torch.zeros_like)
    same = lm.logits_replacing(IDS, "resid_post.0", torch.zeros_like)
    torch.testing.assert_close(zeroed, same)


def test_a_module_that_is_called_by_keyword_only_can_be_read_and_replaced():
    lm = tiny.language_model("llama")
    site = "hook:model.layers.1.self_attn:input"
    x = lm.capture(IDS, [site])[site]
    normed = lm.model.model.layers[1].input_layernorm(
        lm.capture(IDS, ["resid_post.0"])["resid_post.0"]
    )
    torch.testing.assert_close(x, normed)
    assert torch.equal(lm.logits_replacing(IDS, site, lambda x: x.clone()), lm.logits(IDS))


@pytest.mark.parametrize(
    ("site", "cure"),
    [
        ("resid_pre.1", "resid_post.L, mlp_out.L, attn_z.L"),
        ("resid_post", "resid_post.L"),
        ("resid_post.x", "resid_post.L"),
        ("", "resid_post.L"),
        ("resid_post.3", "3 blocks, 0 to 2"),
        ("mlp_out.-1", "3 blocks, 0 to 2"),
        ("attn_z.99999999999999999999", "0 to 2"),
        ("hook:model.layer.0:output", "paths begin with model, lm_head"),
        ("hook::output", "paths begin with"),
        ("hook:model.layers.0", "hook:model.layers.0:input"),
        ("hook:model.layers.0:both", "hook:model.layers.0:output"),
        ("hook:model.layers.0:output:more", "hook:model.layers.0:output"),
    ],
)
def test_unknown_sites_are_refused_with_the_cure(site, cure):
    lm = tiny.language_model("llama")
    with pytest.raises(SiteError, match=cure.replace(".", r"\.")) as refused:
        lm.capture(IDS, [site])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "site",
    [
        "hook:model.layers:output",  # a list of modules, which is never called itself
        "hook:model:output",  # gives back an object, not a tensor
        "hook:model.embed_tokens:input",  # token ids
        "hook:model:input",
        "hook:model.rotary_emb:output",  # [1, context, head] for the whole batch
    ],
)
def test_modules_without_activations_there_are_refused(site):
    lm = tiny.language_model("llama")
    with pytest.raises(SiteError, match="activations"):
        lm.capture(IDS, [site])
    with pytest.raises(SiteError, match="activations"):
        lm.logits_replacing(IDS, site, torch.zeros_like)
    assert lm.logits(IDS).isfinite().all()


def test_a_model_that_keeps_its_blocks_elsewhere_names_the_way_out():
    with pytest.raises(SiteError, match="hook:PATH:output"):
        locate(torch.nn.Sequential(torch.nn.Linear(2, 2)), "resid_post.0")


_SHAPE = {
    "vocab_size": 99, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
    "num_key_value_heads": 3, "intermediate_size": 40, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
_SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "vocab_size": 99}
OTHER_FAMILIES = {
    "Qwen3": {**_SHAPE, "head_dim": 8},
    "Gemma3Text": {**_SHAPE, "head_dim": 12},
    "Phi": _SHAPE,
    "Olmo2": _SHAPE,
    "Cohere": _SHAPE,
    "Mixtral": {**_SHAPE, "num_local_experts": 4},
    "Glm4": {**_SHAPE, "head_dim": 8},
    "GPTJ": {**_SPECIAL, "n_embd": 24, "n_layer": 2, "n_head": 3, "rotary_dim": 4},
    "GPTNeo": {
        **_SPECIAL, "hidden_size": 24, "num_layers": 2, "num_heads": 3,
        "attention_types": [[["global", "local"], 1]],
    },
    "OPT": {
        **_SPECIAL, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
        "ffn_dim": 40, "word_embed_proj_dim": 24,
    },
    "Bloom": {**_SPECIAL, "hidden_size": 24, "n_layer": 2, "n_head": 3},
    "Falcon": {
        **_SPECIAL, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
    },
    "Mpt": {**_SPECIAL, "d_model": 24, "n_layers": 2, "n_heads": 3, "max_seq_len": 64},
}  # fmt: skip


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_more_families_mean_the_same_by_a_site(family):
    """Without mlp_out the stream after the block lacks just that; z through its matrix is what the
    attention gives on."""
    import transformers

    config = getattr(transformers, f"{family}Config")(**OTHER_FAMILIES[family])
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.requires_grad_(False)
    lm = language_models.LanguageModel(family, model, None, "cpu", family)
    ids = IDS % 99
    found = lm.capture(ids, ["attn_z.1", "mlp_out.1", "resid_post.1"])
    seen = {}
    block, projection = locate(model, "resid_post.1").module, locate(model, "attn_z.1")
    attention = model.get_submodule(projection.path.rpartition(".")[0])
    handles = [
        module.register_forward_hook(
            lambda _m, _a, out, name=name: seen.update(
                {name: out[0] if type(out) is tuple else out}
            )
        )
        for name, module in [("block", block), ("attention", attention)]
    ]
    lm.logits_replacing(ids, "mlp_out.1", torch.zeros_like)
    without = found["resid_post.1"] - found["mlp_out.1"]
    torch.testing.assert_close(seen["block"], without, rtol=1e-3, atol=1e-4)
    if family != "Bloom":  # whose attention module adds the stream itself
        given = projection.module(found["attn_z.1"])
        torch.testing.assert_close(given, seen["attention"], rtol=1e-3, atol=1e-4)
    for handle in handles:
        handle.remove()
    readout = lm.readout()
    rms = family in ("Qwen3", "Gemma3Text", "Olmo2", "Mixtral", "Glm4")
    assert readout.scale is not None and readout.centres == (not rms)


def test_names_that_other_tools_use():
    assert transformer_lens_name("resid_post.12") == "blocks.12.hook_resid_post"
    assert transformer_lens_name("attn_z.0") == "blocks.0.attn.hook_z"
    assert transformer_lens_name("hook:a.b:input") == "hook:a.b:input"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_unembedding_is_what_the_model_does_after_its_last_block(family):
    """Final norm without its division and bias, then the output matrix."""
    lm = tiny.language_model(family)
    readout = lm.readout()
    head, scale = readout.head, readout.scale.double()
    assert readout.centres == (family in ("gpt2", "gpt_neox"))
    last = lm.capture(IDS, ["resid_post.2"])["resid_post.2"].double()
    if family in ("gpt2", "gpt_neox"):  # LayerNorm
        norm = lm.model.transformer.ln_f if family == "gpt2" else lm.model.gpt_neox.final_layer_norm
        unit = (last - last.mean(-1, keepdim=True)) / (
            last.var(-1, unbiased=False, keepdim=True) + norm.eps
        ).sqrt()
        expected = (unit * scale + norm.bias) @ head.double().T
    else:
        eps = 1e-6
        expected = (
            last / (last.square().mean(-1, keepdim=True) + eps).sqrt() * scale @ head.double().T
        )
    if family == "gemma2":
        cap = lm.model.config.final_logit_softcapping
        expected = cap * (expected / cap).tanh()
    torch.testing.assert_close(lm.logits(IDS).double(), expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- loading


def test_a_folder_loads_in_float32_whatever_it_was_saved_in(tmp_path):
    folder = tiny.save(tmp_path / "half", dtype=torch.float16)
    loaded = language_models.load(str(folder), device="cpu")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    expected = tiny.network("llama").half().float()
    for a, b in zip(loaded.model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)
    assert loaded.context_limit == tiny.LIMIT
    assert loaded.name == str(folder) and not loaded.model.training
    half = language_models.load(str(folder), device="cpu", dtype="bfloat16")
    assert half.dtype == "bfloat16" and loaded.dtype == "float32"
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("/no/such/folder", "give a folder with config.json"),
        ("./nothing", "a hub id"),
        ("~/nothing-here", "demo"),
        ("justaname", "OWNER/NAME"),
        ("a/b/c", "OWNER/NAME"),
        ("", "OWNER/NAME"),
        ("bad name!/with spaces", "give a folder with config.json"),
    ],
)
def test_missing_models_are_refused_at_once(name, cure, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    with pytest.raises(ModelError, match=cure):
        language_models.load(name)
    assert time.monotonic() - began < 1


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ModelError, match="holds no config.json"):
        language_models.load(str(tmp_path))


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "config.json").write_text("{not json"),
        lambda f: (f / "config.json").write_text('{"model_type": "no-such-model"}'),
        lambda f: (f / "model.safetensors").unlink(),
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:5000]
        ),
        lambda f: (f / "model.safetensors").write_bytes(b"\0" * 20),
        lambda f: (f / "tokenizer.json").write_text("{"),
        lambda f: [p.unlink() for p in f.glob("*token*")],
    ],
    ids=[
        "broken-config",
        "unknown-type",
        "no-weights",
        "short-weights",
        "zero-weights",
        "tokenizer",
        "no-tokenizer",
    ],
)
def test_damaged_folders_are_refused_in_one_line(damage, tmp_path):
    folder = tiny.save(tmp_path / "model")
    damage(folder)
    with pytest.raises(ModelError, match="cannot be loaded") as refused:
        language_models.load(str(folder), device="cpu")
    assert "\n" not in str(refused.value)


def test_a_checkpoint_that_lacks_weights_is_refused_and_not_filled_with_noise(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny.save(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        language_models.load(str(folder), device="cpu")


def test_a_tokenizer_whose_bytes_cannot_be_told_is_refused_on_loading(tmp_path, monkeypatch):
    class Slow:
        is_fast = False

    monkeypatch.setattr(language_models.AutoTokenizer, "from_pretrained", lambda *a, **k: Slow())
    with pytest.raises(ModelError, match="Slow .* convert it to a fast tokenizer"):
        language_models.load(str(tiny.save(tmp_path / "model")), device="cpu")


def test_a_hub_id_offline_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set.*give a model folder"):
        language_models.load("nobody-here/no-such-model")
    assert time.monotonic() - began < 1


def test_an_unreachable_hub_is_refused_in_seconds(monkeypatch):
    with socket.socket() as probe:  # a port that nobody listens on
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    for variable in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(variable, raising=False)
    began = time.monotonic()
    with pytest.raises(ModelError, match="the hub cannot be reached"):
        language_models.load("nobody-here/no-such-model")
    assert time.monotonic() - began < 3


def test_a_device_this_machine_does_not_have_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="use --device cpu"):
        language_models.load(str(tiny.save(tmp_path / "model")), device="cuda")
    with pytest.raises(ModelError, match="auto, cpu or cuda"):
        language_models.pick_device("gpu")
    assert language_models.pick_device("auto") == "cpu"


def test_the_fingerprint_follows_weights_configuration_and_tokenizer(tmp_path):
    def fingerprint(folder):
        return language_models.load(str(folder), device="cpu").fingerprint

    first, again = tiny.save(tmp_path / "a"), tiny.save(tmp_path / "b")
    assert fingerprint(first) == fingerprint(again), "the folder's name must not matter"
    assert fingerprint(tiny.save(tmp_path / "c", seed=1)) != fingerprint(first)
    words = (again / "tokenizer.json").read_text()
    (again / "tokenizer.json").write_text(
        words.replace('"add_prefix_space": false', '"add_prefix_space": true')
    )
    assert fingerprint(again) != fingerprint(first), "another tokenizer gives other tokens"


def test_the_fingerprint_sees_a_change_in_the_middle_of_a_large_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(5 << 20))
    before = language_models.folder_fingerprint(tmp_path)
    with weights.open("r+b") as file:
        file.seek(5 << 19)
        file.write(b"\1")
    assert language_models.folder_fingerprint(tmp_path) != before

"""Forward passes written out: a Llama and a GPT-2, for models as small as tests/tiny.py makes them.

In:  a Hugging Face model's weights, token ids, a site and a change there. Out: logits in float64.
No hook, no cache, no module of the library is called; only the weights are read.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def logits(model, ids: Tensor, site: str, change: Callable[[Tensor], Tensor]) -> Tensor:
    """[n, context, vocabulary]; `change` maps the activation [n, context, d_in] at `site`."""
    family = {"llama": _llama, "gpt2": _gpt2}[model.config.model_type]
    weights = {name: value.double() for name, value in model.state_dict().items()}

    def at(name: str, x: Tensor) -> Tensor:
        return change(x) if name == site else x

    return family(weights, model.config, ids, at)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[n, heads, context, head_dim] each -> concatenated heads [n, context, heads * head_dim]."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    z = scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ v
    return z.transpose(1, 2).flatten(2)


def _heads(x: Tensor, n: int) -> Tensor:
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def _llama(w: dict[str, Tensor], config, ids: Tensor, at: Callable) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * w[name]

    def rotate(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        theta = config.rope_parameters["rope_theta"]
        speed = theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(x.shape[-2], dtype=torch.float64)[:, None] * speed
        a, b = x[..., :half], x[..., half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config.num_hidden_layers):
        part = {k.split(f"layers.{layer}.")[1]: v for k, v in w.items() if f"layers.{layer}." in k}
        h = norm(x, f"model.layers.{layer}.input_layernorm.weight")
        q = _heads(h @ part["self_attn.q_proj.weight"].T, config.num_attention_heads)
        k, v = (
            _heads(h @ part[f"self_attn.{name}_proj.weight"].T, config.num_key_value_heads)
            for name in "kv"
        )
        shared = config.num_attention_heads // config.num_key_value_heads
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
        z = at(f"attn_z.{layer}", _attend(rotate(q), rotate(k), v))
        x = x + z @ part["self_attn.o_proj.weight"].T
        h = norm(x, f"model.layers.{layer}.post_attention_layernorm.weight")
        gate = torch.nn.functional.silu(h @ part["mlp.gate_proj.weight"].T)
        inner = gate * (h @ part["mlp.up_proj.weight"].T)
        inner = at(f"hook:model.layers.{layer}.mlp.down_proj:input", inner)
        x = x + at(f"mlp_out.{layer}", inner @ part["mlp.down_proj.weight"].T)
        x = at(f"resid_post.{layer}", x)
    return norm(x, "model.norm.weight") @ w["lm_head.weight"].T


def _gpt2(w: dict[str, Tensor], config, ids: Tensor, at: Callable) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + config.layer_norm_epsilon).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: ids.shape[1]]
    for layer in range(config.n_layer):
        block = f"transformer.h.{layer}"
        qkv = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").chunk(3, dim=-1)
        z = at(f"attn_z.{layer}", _attend(*(_heads(part, config.n_head) for part in qkv)))
        x = x + linear(z, f"{block}.attn.c_proj")
        h = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        h = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
        x = x + at(f"mlp_out.{layer}", linear(h, f"{block}.mlp.c_proj"))
        x = at(f"resid_post.{layer}", x)
    return norm(x, "transformer.ln_f") @ w["lm_head.weight"].T

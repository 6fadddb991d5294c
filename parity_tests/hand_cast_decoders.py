"""Two decoders as people port them, casts to float32 by hand included: Llama's kind, GPT-NeoX's.

Functions of a state dict of transformers' model, so that nothing but the arithmetic is in question.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import torch

Weights = Mapping[str, jax.Array]


def weights_of(model: torch.nn.Module) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value.numpy()) for name, value in model.state_dict().items()}


def llama(
    weights: Weights,
    tokens: jax.Array,
    config: Any,
    epsilon: float,
    window: int | None = None,
) -> jax.Array:
    """Logits [B T V]; Qwen2 too, which has biases of query, key and value, and Mistral."""
    x = weights["model.embed_tokens.weight"][tokens]
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        h = _rms_norm(x, weights[f"{layer}.input_layernorm.weight"], epsilon)
        query, key, value = (
            _heads(_linear(weights, f"{layer}.self_attn.{p}_proj", h), count)
            for p, count in (
                ("q", config.num_attention_heads),
                ("k", config.num_key_value_heads),
                ("v", config.num_key_value_heads),
            )
        )
        mixed = jax.nn.dot_product_attention(
            _rotated(query, 10000.0),
            _rotated(key, 10000.0),
            value,
            is_causal=True,
            local_window_size=None if window is None else (window - 1, 0),
        )
        x += _linear(weights, f"{layer}.self_attn.o_proj", mixed.reshape(x.shape))
        h = _rms_norm(x, weights[f"{layer}.post_attention_layernorm.weight"], epsilon)
        gate, up = (_linear(weights, f"{layer}.mlp.{p}_proj", h) for p in ("gate", "up"))
        x += _linear(weights, f"{layer}.mlp.down_proj", jax.nn.silu(gate) * up)
    return _linear(weights, "lm_head", _rms_norm(x, weights["model.norm.weight"], epsilon))


def neox(weights: Weights, tokens: jax.Array, config: Any, epsilon: float) -> jax.Array:
    """Logits [B T V]: parallel branches, a quarter of each head rotated, packed q, k and v."""
    x = weights["gpt_neox.embed_in.weight"][tokens]
    heads = config.num_attention_heads
    size = config.hidden_size // heads
    for i in range(config.num_hidden_layers):
        layer = f"gpt_neox.layers.{i}"
        h = _layer_norm(weights, f"{layer}.input_layernorm", x, epsilon)
        packed = _heads(_linear(weights, f"{layer}.attention.query_key_value", h), heads)
        query, key, value = jnp.split(packed, 3, axis=-1)
        rotated = size // 4
        query, key = (
            jnp.concatenate([_rotated(a[..., :rotated], 10000.0), a[..., rotated:]], -1)
            for a in (query, key)
        )
        scores = jnp.einsum("bthk,bshk->bhts", query, key) * size**-0.5
        scores = jnp.where(jnp.tri(tokens.shape[1], dtype=bool), scores, -jnp.inf)
        wei = jax.nn.softmax(scores.astype(jnp.float32)).astype(x.dtype)
        mixed = jnp.einsum("bhts,bshk->bthk", wei, value).reshape(x.shape)
        h = _layer_norm(weights, f"{layer}.post_attention_layernorm", x, epsilon)
        h = _linear(weights, f"{layer}.mlp.dense_h_to_4h", h)
        h = _linear(weights, f"{layer}.mlp.dense_4h_to_h", jax.nn.gelu(h, approximate=False))
        x = x + h + _linear(weights, f"{layer}.attention.dense", mixed)
    x = _layer_norm(weights, "gpt_neox.final_layer_norm", x, epsilon)
    return _linear(weights, "embed_out" if "embed_out.weight" in weights else "lm_head", x)


def _linear(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def _heads(x: jax.Array, count: int) -> jax.Array:
    return x.reshape(*x.shape[:2], count, -1)


def _rms_norm(x: jax.Array, weight: jax.Array, epsilon: float) -> jax.Array:
    h = x.astype(jnp.float32)
    h = h * jax.lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + epsilon)
    return weight * h.astype(x.dtype)


def _layer_norm(weights: Weights, name: str, x: jax.Array, epsilon: float) -> jax.Array:
    h = jnp.asarray(x, dtype="float32")
    h = (h - h.mean(-1, keepdims=True)) * jax.lax.rsqrt(h.var(-1, keepdims=True) + epsilon)
    return h.astype(x.dtype) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _rotated(x: jax.Array, base: float) -> jax.Array:
    """x: [B T H K], the halves of K as pairs, by tables in float32."""
    size = x.shape[-1]
    frequencies = 1.0 / base ** (jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angles = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * frequencies
    cos, sin = (f(angles).astype(x.dtype)[:, None] for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

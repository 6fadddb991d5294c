"""Llama of transformers with random weights: float32 islands, grouped keys."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from transformers import LlamaConfig, LlamaModel

from parity_tests import lift_float32
from parity_tests.harness.bridge import LINEAR, Rule
from parity_tests.ports.gpt2 import attend, embed, the_result
from parity_tests.ports.norms import RMSNorm
from parity_tests.ports.perceptrons import linear
from parity_tests.ports.planting import nnx_class
from parity_tests.ports.port import Fault, Port, tokens
from parity_tests.ports.rotary import Rotary


class LlamaNorm(RMSNorm):
    epsilon = 1e-6

    def __call__(self, x: Array) -> Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.epsilon)
        return self.scale[...] * y.astype(x.dtype)


class LargeEpsilon(LlamaNorm):
    epsilon = 1e-5


class LlamaAttention(nnx.Module):
    def __init__(self) -> None:
        self.q_proj, self.o_proj = linear(6, 8, False), linear(8, 6, False)
        self.k_proj, self.v_proj, self.rotary = linear(6, 4, False), linear(6, 4, False), Rotary()

    def __call__(self, x: Array) -> Array:
        B, T, _ = x.shape
        q = self.rotary(self.q_proj(x).reshape(B, T, 2, 4))
        k = self.rotary(self.k_proj(x).reshape(B, T, 1, 4))
        k, v = jnp.repeat(k, 2, 2), jnp.repeat(self.v_proj(x).reshape(B, T, 1, 4), 2, 2)
        return self.o_proj(attend(q, k, v, jnp.tril(jnp.ones((T, T), bool))))


class KeysNotTurned(LlamaAttention):
    def __call__(self, x: Array) -> Array:
        B, T, _ = x.shape
        q, k = self.rotary(self.q_proj(x).reshape(B, T, 2, 4)), self.k_proj(x).reshape(B, T, 1, 4)
        k, v = jnp.repeat(k, 2, 2), jnp.repeat(self.v_proj(x).reshape(B, T, 1, 4), 2, 2)
        return self.o_proj(attend(q, k, v, jnp.tril(jnp.ones((T, T), bool))))


class LlamaMLP(nnx.Module):
    def __init__(self) -> None:
        self.gate_proj, self.up_proj = linear(6, 10, False), linear(6, 10, False)
        self.down_proj = linear(10, 6, False)

    def __call__(self, x: Array) -> Array:
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))

    def act(self, x: Array) -> Array:
        return jax.nn.silu(x)


class GeGLU(LlamaMLP):
    def act(self, x: Array) -> Array:
        return jax.nn.gelu(x)


class LlamaBlock(nnx.Module):
    def __init__(self) -> None:
        self.input_layernorm, self.self_attn = LlamaNorm(6), LlamaAttention()
        self.post_attention_layernorm, self.mlp = LlamaNorm(6), LlamaMLP()

    def __call__(self, x: Array) -> Array:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nnx.Module):
    def __init__(self) -> None:
        self.embed_tokens, self.norm = embed(11, 6), LlamaNorm(6)
        self.layers = nnx.List([LlamaBlock()])

    def __call__(self, ids: Array) -> Array:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


LLAMA_CONFIG = {
    "vocab_size": 11, "hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 10, "rms_norm_eps": 1e-6,
    "rope_theta": 100.0, "use_cache": False, "attn_implementation": "eager",
}  # fmt: skip
LLAMA_PORT = Port(
    "Llama",
    "NNX",
    lambda: LlamaModel(LlamaConfig(**LLAMA_CONFIG)).eval(),
    Llama,
    {"input_ids": tokens(11, 2, 5)},
    (
        Rule("embed_tokens.weight", "embed_tokens.embedding"),
        Rule("layers.{i}.{which}_layernorm.weight", "layers.{i}.{which}_layernorm.scale"),
        Rule("norm.weight", "norm.scale"),
        Rule("**.weight", "**.kernel", LINEAR),
    ),
    {
        "embed_tokens": "embed_tokens",
        "layers.{i}": "layers.{i}",
        "layers.{i}.mlp": "layers.{i}.mlp",
        "layers.{i}.self_attn": "layers.{i}.self_attn",
        "layers.{i}.{part}.{which}_proj": "layers.{i}.{part}.{which}_proj",
        "layers.{i}.{which}_layernorm": "layers.{i}.{which}_layernorm",
        "norm": "norm",
    },
    (
        Fault(
            "epsilon 1e-5 for 1e-6",
            "layers.0.input_layernorm",
            nnx_class("layers.0.input_layernorm", LargeEpsilon),
        ),
        Fault("GELU for SiLU", "layers.0.mlp", nnx_class("layers.0.mlp", GeGLU)),
        Fault(
            "keys not turned",
            "layers.0.self_attn",
            nnx_class("layers.0.self_attn", KeysNotTurned),
        ),
    ),
    options={"port_inputs": tokens(11, 2, 5), "output": the_result},
    around=lift_float32,
)


PORTS = (LLAMA_PORT,)

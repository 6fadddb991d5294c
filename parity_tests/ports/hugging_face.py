"""Models of transformers with random weights: float32 islands, output objects, keywords."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from parity_tests import lift_float32
from parity_tests.harness.bridge import LINEAR, Rule
from parity_tests.harness.pairing import Twin
from parity_tests.ports.attentions import Rotary
from parity_tests.ports.perceptrons import GELU, RMSNorm, TanhGELU, linear
from parity_tests.ports.planting import nnx_attribute, nnx_class
from parity_tests.ports.port import Fault, Port, tokens


def norm(width: int, epsilon: float) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=epsilon, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


def embed(n: int, width: int) -> nnx.Embed:
    return nnx.Embed(n, width, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


def attend(q: Array, k: Array, v: Array, allowed: Array) -> Array:
    """[B T H K] each -> [B T H·K]."""
    scores = jnp.einsum("bthk,bshk->bhts", q, k) / q.shape[-1] ** 0.5
    wei = jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", wei, v).reshape(*q.shape[:2], -1)


class GPT2Attention(nnx.Module):
    order = (0, 1, 2)

    def __init__(self) -> None:
        self.c_attn, self.c_proj = linear(6, 18), linear(6, 6)

    def __call__(self, x: Array) -> Array:
        B, T, _ = x.shape
        parts = jnp.split(self.c_attn(x), 3, -1)
        q, k, v = (parts[i].reshape(B, T, 2, 3) for i in self.order)
        return self.c_proj(attend(q, k, v, self.mask(T)))

    def mask(self, T: int) -> Array:
        return jnp.tril(jnp.ones((T, T), bool))


class KeysFirst(GPT2Attention):
    order = (1, 0, 2)


class NotCausal(GPT2Attention):
    def mask(self, T: int) -> Array:
        return jnp.ones((T, T), bool)


class GPT2MLP(nnx.Module):
    def __init__(self) -> None:
        self.c_fc, self.act, self.c_proj = linear(6, 24), TanhGELU(), linear(24, 6)

    def __call__(self, x: Array) -> Array:
        return self.c_proj(self.act(self.c_fc(x)))


class GPT2Block(nnx.Module):
    def __init__(self) -> None:
        self.ln_1, self.attn = norm(6, 1e-5), GPT2Attention()
        self.ln_2, self.mlp = norm(6, 1e-5), GPT2MLP()

    def __call__(self, x: Array) -> Array:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Parallel(GPT2Block):
    """As in GPT-J, both branches of the same input."""

    def __call__(self, x: Array) -> Array:
        return x + self.attn(self.ln_1(x)) + self.mlp(self.ln_2(x))


class GPT2(nnx.Module):
    first = 0

    def __init__(self) -> None:
        self.wte, self.wpe, self.ln_f = embed(11, 6), embed(8, 6), norm(6, 1e-5)
        self.h = nnx.List([GPT2Block(), GPT2Block()])

    def __call__(self, ids: Array) -> Array:
        x = self.wte(ids) + self.wpe(self.first + jnp.arange(ids.shape[1])[None])
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class FromOne(GPT2):
    first = 1


GPT2_CONFIG = {
    "vocab_size": 11, "n_embd": 6, "n_head": 2, "n_layer": 2, "n_positions": 8, "use_cache": False,
    "attn_implementation": "eager",
}  # fmt: skip
GPT2_PORT = Port(
    "GPT-2",
    "NNX",
    lambda: GPT2Model(GPT2Config(**GPT2_CONFIG)).eval(),
    GPT2,
    {"input_ids": tokens(11, 2, 5)},
    (
        Rule("wte.weight", "wte.embedding"),
        Rule("wpe.weight", "wpe.embedding"),
        Rule("h.{i}.ln_{j}.weight", "h.{i}.ln_{j}.scale"),
        Rule("ln_f.weight", "ln_f.scale"),
        Rule("**.weight", "**.kernel"),  # transformers' Conv1D is [in out]
        Rule("**.bias", "**.bias"),
    ),
    {
        "": Twin("", inputs=lambda input_ids: (input_ids,)),
        "w{what}": "w{what}",
        "h.{i}": "h.{i}",
        "h.{i}.attn": "h.{i}.attn",
        "h.{i}.mlp": "h.{i}.mlp",
        "h.{i}.mlp.act": "h.{i}.mlp.act",
        "h.{i}.{part}.c_{what}": "h.{i}.{part}.c_{what}",
        "h.{i}.ln_{j}": "h.{i}.ln_{j}",
        "ln_f": "ln_f",
    },
    (
        Fault("exact GELU for tanh GELU", "h.1.mlp.act", nnx_class("h.1.mlp.act", GELU)),
        Fault("queries and keys swapped", "h.0.attn", nnx_class("h.0.attn", KeysFirst)),
        Fault("not causal", "h.1.attn", nnx_class("h.1.attn", NotCausal)),
        Fault("branches side by side", "h.1", nnx_class("h.1", Parallel)),
        Fault("flax's epsilon", "h.0.ln_2", nnx_attribute("h.0.ln_2", epsilon=1e-6)),
        Fault("positions from 1", "model", nnx_class("", FromOne)),
    ),
    options={"output": "last_hidden_state"},
)


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
        self.layers = nnx.List([LlamaBlock(), LlamaBlock()])

    def __call__(self, ids: Array) -> Array:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


LLAMA_CONFIG = {
    "vocab_size": 11, "hidden_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2,
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
        "": Twin("", inputs=lambda input_ids: (input_ids,)),
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
            "layers.1.input_layernorm",
            nnx_class("layers.1.input_layernorm", LargeEpsilon),
        ),
        Fault("GELU for SiLU", "layers.0.mlp", nnx_class("layers.0.mlp", GeGLU)),
        Fault(
            "keys not turned",
            "layers.1.self_attn",
            nnx_class("layers.1.self_attn", KeysNotTurned),
        ),
    ),
    options={"output": "last_hidden_state"},
    around=lift_float32,
)

PORTS = (GPT2_PORT, LLAMA_PORT)

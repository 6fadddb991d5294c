"""GPT-2 of transformers with random weights: an output object, a keyword."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from transformers import GPT2Config, GPT2Model

from parity_tests.harness.bridge import Rule
from parity_tests.ports.perceptrons import GELU, TanhGELU, linear
from parity_tests.ports.planting import nnx_attribute, nnx_class
from parity_tests.ports.port import Fault, Port, tokens


def norm(width: int, epsilon: float) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=epsilon, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


def embed(n: int, width: int) -> nnx.Embed:
    zeros = nnx.initializers.zeros
    return nnx.Embed(n, width, embedding_init=zeros, rngs=nnx.Rngs(0), param_dtype=jnp.float64)


def attend(q: Array, k: Array, v: Array, allowed: Array) -> Array:
    """[B T H K] each -> [B T H·K]."""
    scores = jnp.einsum("bthk,bshk->bhts", q, k) / q.shape[-1] ** 0.5
    wei = jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", wei, v).reshape(*q.shape[:2], -1)


def the_result(output: Any) -> Any:
    """transformers gives an object, the port the array in it."""
    return getattr(output, "last_hidden_state", output)


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
        self.h = nnx.List([GPT2Block()])

    def __call__(self, ids: Array) -> Array:
        x = self.wte(ids) + self.wpe(self.first + jnp.arange(ids.shape[1])[None])
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class FromOne(GPT2):
    first = 1


GPT2_CONFIG = {
    "vocab_size": 11, "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 8, "use_cache": False,
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
        Fault("exact GELU for tanh GELU", "h.0.mlp.act", nnx_class("h.0.mlp.act", GELU)),
        Fault("queries and keys swapped", "h.0.attn", nnx_class("h.0.attn", KeysFirst)),
        Fault("not causal", "h.0.attn", nnx_class("h.0.attn", NotCausal)),
        Fault("branches side by side", "h.0", nnx_class("h.0", Parallel)),
        Fault("flax's epsilon", "h.0.ln_2", nnx_attribute("h.0.ln_2", epsilon=1e-6)),
        Fault("positions from 1", "model", nnx_class("", FromOne)),
    ),
    options={"port_inputs": tokens(11, 2, 5), "output": the_result},
)


PORTS = (GPT2_PORT,)

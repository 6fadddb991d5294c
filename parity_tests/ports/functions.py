"""Plain functions with their parameters bound, `tap` inside."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import Array
from torch import Tensor, nn

from parity_tests import tap
from parity_tests.harness.bridge import LINEAR, Rule
from parity_tests.ports.planting import calls
from parity_tests.ports.port import Fault, Port, normal

WEIGHTS = (Rule("{layer}.weight", "{layer}.w", LINEAR), Rule("{layer}.bias", "{layer}.b"))
Params = dict[str, Any]


def zeros(**sizes: tuple[int, ...]) -> Params:
    """{"w": [in out], "b": [out]} of each layer."""
    return {name: {"w": jnp.zeros(s), "b": jnp.zeros(s[-1])} for name, s in sizes.items()}


def dense(params: Params, x: Array) -> Array:
    return x @ params["w"] + params["b"]


class TorchMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(5, 6), nn.Mish(), nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc2(self.act(self.fc1(x))))


def mlp(params: Params, x: Array, act: Any = jax.nn.mish, epsilon: float = 1e-5) -> Array:
    x = tap("fc1", dense(params["fc1"], x))
    x = tap("act", act(x))
    x = tap("fc2", dense(params["fc2"], x))
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + epsilon)
    return tap("norm", x * params["norm"]["w"] + params["norm"]["b"])


def with_swish(params: Params, x: Array) -> Array:
    return mlp(params, x, jax.nn.swish)


def with_frozen_act(params: Params, x: Array) -> Array:
    return mlp(params, x, lambda x: x * jax.lax.stop_gradient(jnp.tanh(jax.nn.softplus(x))))


def with_small_epsilon(params: Params, x: Array) -> Array:
    return mlp(params, x, epsilon=1e-6)


def with_square_transposed(params: Params, x: Array) -> Array:
    square = {"w": params["fc2"]["w"].T, "b": params["fc2"]["b"]}
    return mlp({**params, "fc2": square}, x)


MLP_PORT = Port(
    "MLP as a function",
    "function",
    TorchMLP,
    lambda: partial(mlp, zeros(fc1=(5, 6), fc2=(6, 6), norm=(6,))),
    normal(2, 5),
    (Rule("norm.weight", "norm.w"), *WEIGHTS),
    {"{layer}": "{layer}"},
    (
        Fault("swish for Mish", "act", calls(with_swish)),
        Fault("a stray stop_gradient", "act", calls(with_frozen_act), "backward"),
        Fault("epsilon 1e-6 for 1e-5", "norm", calls(with_small_epsilon)),
        Fault("a square kernel transposed", "fc2", calls(with_square_transposed)),
    ),
)


class TorchMix(nn.Module):
    """[B T C] each, of three heads -> [B T C]."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(-1, (3, 2)).transpose(1, 2) for x in (q, k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).flatten(-2)


class TorchBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 6) for _ in range(3))
        self.mix, self.proj = TorchMix(), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(self.mix(self.query(x), self.key(x), self.value(x)))


class TorchBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TorchBlock() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def mix(q: Array, k: Array, v: Array, shift: int) -> Array:
    B, T, _ = q.shape
    q, k, v = (x.reshape(B, T, 3, 2) for x in (q, k, v))
    scores = jnp.einsum("bthk,bshk->bhts", q, k) / 2**0.5
    mask = jnp.tril(jnp.ones((T, T), bool), shift)
    wei = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", wei, v).reshape(B, T, 6)


def block(params: Params, name: str, x: Array, shift: int) -> Array:
    parts = ("query", "key", "value")
    q, k, v = (tap(f"{name}.{part}", dense(params[part], x)) for part in parts)
    y = tap(f"{name}.mix", mix(q, k, v, shift))
    return tap(name, x + tap(f"{name}.proj", dense(params["proj"], y)))


def blocks(params: list[Params], x: Array, shifts: tuple[int, ...] = (0, 0)) -> Array:
    for i, shift in enumerate(shifts):
        x = block(params[i], f"blocks.{i}", x, shift)
    return x


def off_by_one(params: list[Params], x: Array) -> Array:
    return blocks(params, x, (0, 1))


BLOCKS = Port(
    "attention blocks as functions",
    "function",
    TorchBlocks,
    lambda: partial(
        blocks, [zeros(query=(6, 6), key=(6, 6), value=(6, 6), proj=(6, 6)) for _ in range(2)]
    ),
    normal(2, 5, 6),
    (
        Rule("blocks.{i}.{part}.weight", "{i}.{part}.w", LINEAR),
        Rule("blocks.{i}.{part}.bias", "{i}.{part}.b"),
    ),
    {"**": "**"},
    (Fault("a mask off by one", "blocks.1.mix", calls(off_by_one)),),
)


class TorchFeatures(nn.Module):
    """No weights: differences, energies, a window."""

    def forward(self, x: Tensor) -> Tensor:
        energy = (x - x.mean(-1, keepdim=True)).square().cumsum(-1)
        return energy * torch.hann_window(x.shape[-1], dtype=x.dtype) / x.std(-1, keepdim=True)


def features(x: Array, ddof: int = 1, periodic: bool = True) -> Array:
    energy = jnp.cumsum((x - x.mean(-1, keepdims=True)) ** 2, -1)
    T = x.shape[-1]
    window = jnp.sin(jnp.pi * jnp.arange(T) / (T if periodic else T - 1)) ** 2
    return energy * window / x.std(-1, keepdims=True, ddof=ddof)


FEATURES = Port(
    "a function without weights",
    "function",
    TorchFeatures,
    lambda: features,
    normal(2, 6),
    (),
    {},
    (
        Fault("ddof of a deviation", "model", lambda port: partial(port, ddof=0)),
        Fault("a symmetric window", "model", lambda port: partial(port, periodic=False)),
    ),
)


PORTS = (MLP_PORT, BLOCKS, FEATURES)

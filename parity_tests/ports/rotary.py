"""Grouped-query attention with rotary embedding, causal and within a window, in NNX."""

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests.ports.attentions import KERNELS, SAME_NAMES
from parity_tests.ports.perceptrons import linear
from parity_tests.ports.planting import nnx_class
from parity_tests.ports.port import Fault, Port, normal


class TorchRotary(nn.Module):
    """[B T H K]: each pair of channels K/2 apart is turned by its position."""

    def forward(self, x: Tensor) -> Tensor:
        T, K = x.shape[1], x.shape[-1]
        frequencies = 100.0 ** -(torch.arange(0, K, 2, dtype=x.dtype) / K)
        angles = torch.arange(T, dtype=x.dtype)[:, None, None] * frequencies
        a, b = x.chunk(2, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class TorchGrouped(nn.Module):
    """Causal attention within a window: four heads of queries, two of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.proj = nn.Linear(6, 16, bias=False), nn.Linear(16, 6, bias=False)
        self.key, self.value = nn.Linear(6, 8, bias=False), nn.Linear(6, 8, bias=False)
        self.rotary = TorchRotary()

    def forward(self, x: Tensor) -> Tensor:
        q = self.rotary(self.query(x).unflatten(-1, (4, 4)))
        k = self.rotary(self.key(x).unflatten(-1, (2, 4))).repeat_interleave(2, dim=2)
        v = self.value(x).unflatten(-1, (2, 4)).repeat_interleave(2, dim=2)
        age = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        wei = torch.einsum("bthk,bshk->bhts", q, k) / 2
        wei = wei.masked_fill((age < 0) | (age >= 3), -torch.inf).softmax(-1)
        return self.proj(torch.einsum("bhts,bshk->bthk", wei, v).flatten(-2))


class Rotary(nnx.Module):
    base = 100.0

    def __call__(self, x: Array) -> Array:
        a, b = self.halves(x)
        cos, sin = self.table(x.shape[1], x.shape[-1])
        return self.whole(a * cos - b * sin, b * cos + a * sin)

    def halves(self, x: Array) -> tuple[Array, Array]:
        return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]

    def whole(self, a: Array, b: Array) -> Array:
        return jnp.concatenate([a, b], -1)

    def table(self, T: int, K: int) -> tuple[Array, Array]:
        angles = jnp.arange(T)[:, None, None] * self.base ** -(jnp.arange(0, K, 2) / K)
        return jnp.cos(angles), jnp.sin(angles)


class Neighbours(Rotary):
    """GPT-J's pairs, of channels beside each other."""

    def halves(self, x: Array) -> tuple[Array, Array]:
        return x[..., ::2], x[..., 1::2]

    def whole(self, a: Array, b: Array) -> Array:
        return jnp.stack([a, b], -1).reshape(*a.shape[:-1], -1)


class OtherBase(Rotary):
    base = 10000.0


class TurnedBack(Rotary):
    def __call__(self, x: Array) -> Array:
        a, b = self.halves(x)
        cos, sin = self.table(x.shape[1], x.shape[-1])
        return self.whole(a * cos + b * sin, b * cos - a * sin)


class BFloat16Table(Rotary):
    def table(self, T: int, K: int) -> tuple[Array, Array]:
        cos, sin = super().table(T, K)
        return jax.lax.reduce_precision(cos, 8, 7), jax.lax.reduce_precision(sin, 8, 7)


class Grouped(nnx.Module):
    def __init__(self) -> None:
        self.query, self.proj = linear(6, 16, False), linear(16, 6, False)
        self.key, self.value, self.rotary = linear(6, 8, False), linear(6, 8, False), Rotary()

    def __call__(self, x: Array) -> Array:
        B, T, _ = x.shape
        q = self.rotary(self.query(x).reshape(B, T, 4, 4))
        k = self.rotary(self.key(x).reshape(B, T, 2, 4))
        v = self.value(x).reshape(B, T, 2, 4)
        k, v = self.repeated(k), self.repeated(v)
        scores = jnp.einsum("bthk,bshk->bhts", q, k) / 2
        age = jnp.arange(T)[:, None] - jnp.arange(T)
        wei = jax.nn.softmax(jnp.where(self.may_look(age), scores, -jnp.inf))
        return self.proj(jnp.einsum("bhts,bshk->bthk", wei, v).reshape(B, T, -1))

    def repeated(self, x: Array) -> Array:
        return jnp.repeat(x, 2, axis=2)

    def may_look(self, age: Array) -> Array:
        return (age >= 0) & (age < 3)


class Tiled(Grouped):
    def repeated(self, x: Array) -> Array:
        return jnp.tile(x, (1, 1, 2, 1))


class NoWindow(Grouped):
    def may_look(self, age: Array) -> Array:
        return age >= 0


class WindowOfFour(Grouped):
    def may_look(self, age: Array) -> Array:
        return (age >= 0) & (age <= 3)


class NotCausal(Grouped):
    def may_look(self, age: Array) -> Array:
        return age < 3


# The rotary layer is called twice, with queries and with keys.
GROUPED = Port(
    "grouped-query attention, rotary, in a window",
    "NNX",
    TorchGrouped,
    Grouped,
    normal(2, 5, 6),
    KERNELS,
    SAME_NAMES,
    (
        Fault("rotary pairs of neighbours", "rotary", nnx_class("rotary", Neighbours)),
        Fault("rotary base of 10,000", "rotary", nnx_class("rotary", OtherBase)),
        Fault("turned the other way", "rotary", nnx_class("rotary", TurnedBack)),
        Fault("rotary table in bfloat16", "rotary", nnx_class("rotary", BFloat16Table)),
        Fault("keys tiled, not repeated", "model", nnx_class("", Tiled)),
        Fault("no window", "model", nnx_class("", NoWindow)),
        Fault("a window of four for three", "model", nnx_class("", WindowOfFour)),
        Fault("not causal", "model", nnx_class("", NotCausal)),
    ),
)


PORTS = (GROUPED,)

"""Attention with a cache of keys and values, which every call fills further."""

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.bridge import Rule
from parity_tests.ports.perceptrons import KERNELS, linear
from parity_tests.ports.planting import nnx_class
from parity_tests.ports.port import Fault, Port, normal
from parity_tests.ports.states import SAME_NAMES


class TorchCache(nn.Module):
    """Attends to what it was given in earlier calls, too."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(6, 6), nn.Linear(6, 6)
        self.register_buffer("keys", torch.zeros(2, 7, 6))
        self.register_buffer("values", torch.zeros(2, 7, 6))
        self.register_buffer("length", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        start, end = int(self.length), int(self.length) + x.shape[1]
        self.keys = torch.cat([self.keys[:, :start], self.key(x), self.keys[:, end:]], 1)
        self.values = torch.cat([self.values[:, :start], self.value(x), self.values[:, end:]], 1)
        self.length = torch.tensor(end)
        wei = (x @ self.keys[:, :end].mT).softmax(-1)
        return wei @ self.values[:, :end]


class TorchDecoder(nn.Module):
    """Three tokens, then two, in one call."""

    def __init__(self) -> None:
        super().__init__()
        self.cached, self.head = TorchCache(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cached(x[:, :3]), self.cached(x[:, 3:])]
        return self.head(torch.cat(parts, 1))


class Cached(nnx.Module):
    def __init__(self) -> None:
        self.key, self.value = linear(6, 6), linear(6, 6)
        self.keys, self.values = nnx.Cache(jnp.zeros((2, 7, 6))), nnx.Cache(jnp.zeros((2, 7, 6)))
        self.length = nnx.Cache(jnp.array(0))

    def __call__(self, x: Array) -> Array:
        start = self.length[...]
        for cache, new in ((self.keys, self.key(x)), (self.values, self.value(x))):
            cache[...] = jax.lax.dynamic_update_slice_in_dim(cache[...], new, start, 1)
        self.length[...] = start + x.shape[1]
        scores = x @ self.keys[...].mT
        return jax.nn.softmax(jnp.where(self.filled(), scores, -jnp.inf), -1) @ self.values[...]

    def filled(self) -> Array:
        return jnp.arange(7) < self.length[...]


class EmptySlotsSeen(Cached):
    def filled(self) -> Array:
        return jnp.arange(7) <= self.length[...]


class Decoder(nnx.Module):
    def __init__(self) -> None:
        self.cached, self.head = Cached(), linear(6, 4)

    def __call__(self, x: Array) -> Array:
        return self.head(jnp.concatenate([self.cached(x[:, :3]), self.cached(x[:, 3:])], 1))


CACHE = Port(
    "a key/value cache",
    "NNX",
    TorchDecoder,
    Decoder,
    normal(2, 5, 6),
    (
        *(Rule(f"cached.{name}", f"cached.{name}") for name in ("keys", "values", "length")),
        *KERNELS,
    ),
    SAME_NAMES,
    (Fault("an empty slot is seen", "cached", nnx_class("cached", EmptySlotsSeen)),),
)


PORTS = (CACHE,)

"""The same mask as numbers to add, as what is seen, and as what is hidden."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.pairing import Twin
from parity_tests.ports.calls import SAME_NAMES
from parity_tests.ports.perceptrons import KERNELS, linear
from parity_tests.ports.planting import nnx_class
from parity_tests.ports.port import Fault, Port, normal


class TorchMasked(nn.Module):
    """Takes a mask that is added to the scores."""

    def forward(self, q: Tensor, k: Tensor, mask: Tensor) -> Any:
        wei = (q @ k.mT + mask).softmax(-1)
        return wei @ k, wei


class TorchReader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.attention = nn.Linear(6, 4), nn.Linear(6, 4), TorchMasked()

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        mask = torch.full((T, T), -torch.inf, dtype=x.dtype).triu(1)
        return self.attention(self.query(x), self.key(x), mask)[0]


class Masked(nnx.Module):
    """Takes what may be looked at, and gives no weights."""

    def __call__(self, q: Array, k: Array, allowed: Array) -> Array:
        return jax.nn.softmax(jnp.where(allowed, q @ k.mT, -jnp.inf)) @ k


class ScaledMasked(Masked):
    def __call__(self, q: Array, k: Array, allowed: Array) -> Array:
        return super().__call__(q / 2, k, allowed)


class Hidden(nnx.Module):
    """The other polarity: True is what may not be looked at."""

    def __call__(self, q: Array, k: Array, hidden: Array) -> Array:
        return jax.nn.softmax(jnp.where(hidden, -jnp.inf, q @ k.mT)) @ k


class Reader(nnx.Module):
    def __init__(self, attention: type[nnx.Module] = Masked) -> None:
        self.query, self.key, self.attention = linear(6, 4), linear(6, 4), attention()

    def __call__(self, x: Array) -> Array:
        return self.attention(self.query(x), self.key(x), self.mask(x.shape[1]))

    def mask(self, T: int) -> Array:
        return jnp.tril(jnp.ones((T, T), bool))


class HidingReader(Reader):
    def __init__(self) -> None:
        super().__init__(Hidden)

    def mask(self, T: int) -> Array:
        return ~super().mask(T)


class OffByOne(Reader):
    def mask(self, T: int) -> Array:
        return jnp.tril(jnp.ones((T, T), bool), 1)


def as_allowed(q: Any, k: Any, mask: Any) -> tuple[Any, Any, Any]:
    return q, k, mask == 0


ADDED_MASK = Port(
    "a mask to add against one of what is seen",
    "NNX",
    TorchReader,
    Reader,
    normal(2, 5, 6),
    KERNELS,
    SAME_NAMES,
)
ADDED_MASK_ADAPTED = Port(
    "a mask to add, with an adapter",
    "NNX",
    TorchReader,
    Reader,
    normal(2, 5, 6),
    KERNELS,
    {"attention": Twin("attention", inputs=as_allowed), "**": "**"},
    (
        Fault("scores halved", "attention", nnx_class("attention", ScaledMasked)),
        Fault("a mask off by one", "model", nnx_class("", OffByOne)),
    ),
)
POLARITY = Port(
    "masks of opposite polarity",
    "NNX",
    TorchReader,
    HidingReader,
    normal(2, 5, 6),
    KERNELS,
    SAME_NAMES,
)


PORTS = (ADDED_MASK, ADDED_MASK_ADAPTED, POLARITY)

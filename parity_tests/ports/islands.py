"""Models that compute parts in float32 whatever comes in: compared where float32 means float64."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests import lift_float32
from parity_tests.harness.bridge import Rule
from parity_tests.ports.perceptrons import KERNELS, linear
from parity_tests.ports.planting import nnx_class
from parity_tests.ports.port import Fault, Port, normal


class TorchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * y.to(x.dtype)


class TorchAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.query, self.key = TorchNorm(), nn.Linear(6, 6), nn.Linear(6, 6)
        self.proj = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k = (f(y).unflatten(-1, (2, 3)).transpose(1, 2) for f in (self.query, self.key))
        scores = (q @ k.mT).float() / 3**0.5
        wei = scores.softmax(-1, dtype=torch.float32).to(x.dtype)
        return x + self.proj((wei @ k).transpose(1, 2).flatten(-2))


class Norm(nnx.Module):
    epsilon = 1e-6

    def __init__(self) -> None:
        self.scale = nnx.Param(jnp.ones(6))

    def __call__(self, x: Array) -> Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.epsilon)
        return y.astype(x.dtype) * self.scale[...]


class LargeEpsilon(Norm):
    epsilon = 1e-5


class Attention(nnx.Module):
    scale: Any = None

    def __init__(self) -> None:
        self.norm, self.query, self.key, self.proj = Norm(), *(linear(6, 6) for _ in range(3))

    def __call__(self, x: Array) -> Array:
        y = self.norm(x)
        q, k = (f(y).reshape(*x.shape[:2], 2, 3) for f in (self.query, self.key))
        y = jax.nn.dot_product_attention(q, k, k, scale=self.scale)  # its softmax is in float32
        return x + self.proj(y.reshape(x.shape))


class Unscaled(Attention):
    scale = 1.0


ISLANDS = Port(
    "softmax and norm in float32",
    "NNX",
    TorchAttention,
    Attention,
    normal(2, 5, 6),
    (Rule("norm.weight", "norm.scale"), *KERNELS),
    {"**": "**"},
    (
        Fault("epsilon 1e-5 for 1e-6", "norm", nnx_class("norm", LargeEpsilon)),
        Fault("scores not scaled", "model", nnx_class("", Unscaled)),
    ),
    around=lift_float32,
)

PORTS = (ISLANDS,)

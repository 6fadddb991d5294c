"""Equinox's own attention, across two sequences."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from torch import Tensor, nn

from parity_tests.ports.equinox_ports import SAME_WEIGHTS, key
from parity_tests.ports.planting import eqx_attribute, eqx_class
from parity_tests.ports.port import Fault, Port, normal, unfilled


class TorchAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_proj, self.key_proj, self.value_proj, self.output_proj = (
            nn.Linear(6, 6, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = self.query_proj(x).unflatten(-1, (2, 3)).transpose(1, 2)
        k, v = (
            f(context).unflatten(-1, (2, 3)).transpose(1, 2)
            for f in (self.key_proj, self.value_proj)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.output_proj(y.transpose(1, 2).flatten(-2))


class TorchCross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = TorchAttention(), nn.RMSNorm(6, eps=1e-5)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return x + self.attention(self.norm(x), context)


class Cross(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.RMSNorm

    def __init__(self) -> None:
        self.attention = eqx.nn.MultiheadAttention(2, 6, dtype=jnp.float64, key=key())
        self.norm = eqx.nn.RMSNorm(6, use_bias=False, dtype=jnp.float64)

    def __call__(self, x: Array, context: Array) -> Array:
        return jax.vmap(self.one)(x, context)

    def one(self, x: Array, context: Array) -> Array:
        return x + self.attention(jax.vmap(self.norm)(x), context, context)


class Exchanged(Cross):
    def one(self, x: Array, context: Array) -> Array:
        y = jax.vmap(self.norm)(x)
        return x + self.attention(y, y, y)


CROSS = Port(
    "cross-attention, the layers' own",
    "Equinox",
    TorchCross,
    lambda: unfilled(Cross),
    (normal(2, 3, 6), normal(2, 5, 6, seed=1)),
    SAME_WEIGHTS,
    {"norm": "norm", "attention.{part}_proj": "attention.{part}_proj"},
    (
        Fault("attends to itself", "model", eqx_class("", Exchanged)),
        Fault("epsilon 1e-6 for 1e-5", "norm", eqx_attribute("norm", eps=1e-6)),
    ),
)


PORTS = (CROSS,)

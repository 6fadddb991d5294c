"""Equinox modules: one example at a time, layers under jax.vmap, channels first as in torch."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.bridge import Rule
from parity_tests.ports.planting import eqx_attribute, eqx_class
from parity_tests.ports.port import Fault, Port, normal, unfilled

SAME_WEIGHTS = (Rule("**", "**"),)
SAME_NAMES = {"**": "**"}


def key() -> Array:
    return jax.random.key(0)


def column(name: str) -> Rule:
    """A convolution's bias, which Equinox keeps as [channels 1 1]."""
    return Rule(name, name, to_port=lambda b: b[:, None, None], to_reference=lambda b: b[:, 0, 0])


class TorchMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)])
        self.norm, self.act = nn.LayerNorm(6), nn.Softplus(beta=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.layers[0](x))
        return self.layers[2](self.norm(x + self.act(self.layers[1](x))))


class Softplus(eqx.Module):
    beta: float = 2.0

    def __call__(self, x: Array) -> Array:
        return jax.nn.softplus(self.beta * x) / self.beta


class FrozenSoftplus(Softplus):
    def __call__(self, x: Array) -> Array:
        return super().__call__(x) + 0.5 * (jax.lax.stop_gradient(x) - x)


class MLP(eqx.Module):
    layers: list[eqx.nn.Linear]
    norm: eqx.nn.LayerNorm
    act: Softplus

    def __init__(self) -> None:
        sizes = ((5, 6), (6, 6), (6, 3))
        self.layers = [eqx.nn.Linear(*s, dtype=jnp.float64, key=key()) for s in sizes]
        self.norm, self.act = eqx.nn.LayerNorm(6, dtype=jnp.float64), Softplus()

    @eqx.filter_jit
    def __call__(self, x: Array) -> Array:
        return jax.vmap(self.one)(x)

    def one(self, x: Array) -> Array:
        x = self.act(self.layers[0](x))
        return self.layers[2](self.norm(x + self.act(self.layers[1](x))))


class PreNorm(MLP):
    def one(self, x: Array) -> Array:
        x = self.act(self.layers[0](x))
        return self.layers[2](x + self.act(self.layers[1](self.norm(x))))


class TransposedLinear(eqx.nn.Linear):
    def __call__(self, x: Array, *, key: Any = None) -> Array:
        assert self.bias is not None
        return x @ self.weight + self.bias


MLP_PORT = Port(
    "MLP under jax.vmap and eqx.filter_jit",
    "Equinox",
    TorchMLP,
    lambda: unfilled(MLP),
    normal(2, 5),
    SAME_WEIGHTS,
    SAME_NAMES,
    (
        Fault("a square kernel transposed", "layers.1", eqx_class("layers.1", TransposedLinear)),
        Fault("epsilon 1e-6 for 1e-5", "norm", eqx_attribute("norm", eps=1e-6)),
        Fault("softplus of another beta", "act", eqx_attribute("act", beta=1.0)),
        Fault("pre-norm for post-norm", "model", eqx_class("", PreNorm)),
    ),
)


class TorchResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.pool, self.up = nn.AvgPool2d(3, stride=2, padding=1), nn.Upsample(scale_factor=2)
        self.out = nn.Conv2d(4, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        return self.out(x + self.up(self.pool(x)))


class Nearest(eqx.Module):
    """Twice as many rows and columns."""

    def __call__(self, x: Array) -> Array:
        return jnp.repeat(jnp.repeat(x, 2, axis=-1), 2, axis=-2)


class Tiles(Nearest):
    def __call__(self, x: Array) -> Array:
        return jnp.tile(x, (1, 2, 2))


class Pool(eqx.Module):
    def __call__(self, x: Array) -> Array:
        return self.total(x) / 9

    def total(self, x: Array) -> Array:
        padding = ((0, 0), (1, 1), (1, 1))
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3), (1, 2, 2), padding)


class PaddingLeftOut(Pool):
    def __call__(self, x: Array) -> Array:
        return self.total(x) / self.total(jnp.ones_like(x))


class Residual(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    pool: Pool
    up: Nearest
    out: eqx.nn.Conv2d

    def __init__(self) -> None:
        self.conv = eqx.nn.Conv2d(3, 4, 3, padding=1, dtype=jnp.float64, key=key())
        self.norm, self.pool, self.up = (
            eqx.nn.GroupNorm(2, 4, dtype=jnp.float64),
            Pool(),
            Nearest(),
        )
        self.out = eqx.nn.Conv2d(4, 2, 2, dtype=jnp.float64, key=key())

    def __call__(self, x: Array) -> Array:
        return jax.vmap(eqx.filter_checkpoint(self.one))(x)

    def one(self, x: Array) -> Array:
        x = jax.nn.relu(self.norm(self.conv(x)))
        return self.out(x + self.up(self.pool(x)))


class NormAfter(Residual):
    def one(self, x: Array) -> Array:
        x = self.norm(jax.nn.relu(self.conv(x)))
        return self.out(x + self.up(self.pool(x)))


RESIDUAL = Port(
    "convolutions under jax.vmap and eqx.filter_checkpoint",
    "Equinox",
    TorchResidual,
    lambda: unfilled(Residual),
    normal(2, 3, 6, 8),
    (
        Rule(
            "conv.bias",
            "conv.bias",
            to_port=lambda b: b[:, None, None],
            to_reference=lambda b: b[:, 0, 0],
        ),
        Rule(
            "out.bias",
            "out.bias",
            to_port=lambda b: b[:, None, None],
            to_reference=lambda b: b[:, 0, 0],
        ),
        *SAME_WEIGHTS,
    ),
    SAME_NAMES,
    (
        Fault("padding left out of an average", "pool", eqx_class("pool", PaddingLeftOut)),
        Fault("tiles for nearest neighbours", "up", eqx_class("up", Tiles)),
        Fault("norm behind the activation", "model", eqx_class("", NormAfter)),
        Fault("groups of other sizes", "norm", eqx_attribute("norm", groups=4)),
    ),
)


PORTS = (MLP_PORT, RESIDUAL)

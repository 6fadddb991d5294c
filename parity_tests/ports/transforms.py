"""NNX layers under JAX's transformations, and arrays that are no variables."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.bridge import LINEAR, Rule
from parity_tests.ports.perceptrons import KERNELS, linear
from parity_tests.ports.planting import nnx_attribute, nnx_class, nnx_weight
from parity_tests.ports.port import Fault, Port, normal


class TorchBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(torch.tanh(self.fc(x)))


class TorchStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(TorchBlock() for _ in range(3)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Block(nnx.Module):
    f = staticmethod(jnp.tanh)

    def __init__(self) -> None:
        self.fc = linear(6, 6)
        self.norm = nnx.LayerNorm(6, epsilon=1e-5, rngs=nnx.Rngs(0), param_dtype=jnp.float64)

    def __call__(self, x: Array) -> Array:
        return x + self.norm(self.f(self.fc(x)))


class SoftBlock(Block):
    f = staticmethod(jax.nn.soft_sign)


class Scanned(nnx.Module):
    """The blocks' weights on one leading axis."""

    def __init__(self) -> None:
        self.blocks = nnx.vmap(lambda _: Block(), in_axes=0, out_axes=0)(jnp.arange(3))
        self.head = linear(6, 4)

    def __call__(self, x: Array) -> Array:
        step = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.head(step(x, self.blocks))


def stacked(reference: str, port: str, axes: tuple[int, ...] | None = None) -> Rule:
    return Rule(
        f"blocks.{{i}}.{reference}",
        f"blocks.{port}",
        axes,
        over={"i": range(3)},
        at=lambda i: (i,),
    )


HEAD = (Rule("head.weight", "head.kernel", LINEAR), Rule("head.bias", "head.bias"))
SCANNED = Port(
    "blocks under nnx.scan",
    "NNX",
    TorchStack,
    Scanned,
    normal(2, 5, 6),
    (
        stacked("fc.weight", "fc.kernel", LINEAR),
        stacked("fc.bias", "fc.bias"),
        stacked("norm.weight", "norm.scale"),
        stacked("norm.bias", "norm.bias"),
        *HEAD,
    ),
    {"head": "head"},
    (
        Fault("softsign for tanh in every block", "model", nnx_class("blocks", SoftBlock)),
        Fault("flax's epsilon in every block", "model", nnx_attribute("blocks.norm", epsilon=1e-6)),
    ),
)


class Compiled(nnx.Module):
    """A block under nnx.jit, one under nnx.remat, one under jax.checkpoint."""

    def __init__(self) -> None:
        self.blocks, self.head = nnx.List([Block(), Block(), Block()]), linear(6, 4)

    def __call__(self, x: Array) -> Array:
        first, second, third = self.blocks
        x = nnx.jit(lambda block, x: block(x))(first, x)
        x = nnx.remat(lambda block, x: block(x))(second, x)
        return self.head(jax.checkpoint(third)(x))


NORM_RULES = (Rule("blocks.{i}.norm.weight", "blocks.{i}.norm.scale"),)
COMPILED = Port(
    "blocks under nnx.jit, nnx.remat, jax.checkpoint",
    "NNX",
    TorchStack,
    Compiled,
    normal(2, 5, 6),
    (
        Rule("blocks.{i}.norm.weight", "blocks.{i}.norm.scale"),
        Rule("**.weight", "**.kernel", LINEAR),
        Rule("**.bias", "**.bias"),
    ),
    {"**": "**"},
    (Fault("a bias taken off the head", "head", nnx_weight("head.bias", jnp.negative)),),
)


class TorchChoice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x) if x.sum() > 0 else self.other(x)
        return self.head(torch.relu(y))


class Choice(nnx.Module):
    def __init__(self) -> None:
        self.one, self.other, self.head = linear(6, 4), linear(6, 4), linear(4, 3)

    def __call__(self, x: Array) -> Array:
        y = jax.lax.cond(self.first(x), lambda: self.one(x), lambda: self.other(x))
        return jax.vmap(jax.vmap(self.head))(jax.nn.relu(y))

    def first(self, x: Array) -> Array:
        return x.sum() > 0


class WrongBranch(Choice):
    def first(self, x: Array) -> Array:
        return x.sum() <= 0


CHOICE = Port(
    "layers under jax.lax.cond and jax.vmap",
    "NNX",
    TorchChoice,
    Choice,
    normal(2, 5, 6, seed=2),
    KERNELS,
    {"{layer}": "{layer}"},
    (
        Fault("the wrong branch", "model", nnx_class("", WrongBranch)),
        Fault("a bias taken off under vmap", "head", nnx_weight("head.bias", jnp.negative)),
    ),
)


class TorchScaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("table", torch.linspace(0.5, 2, 4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.fc(x) - self.running_mean) * self.table


class Scaled(nnx.Module):
    """An array that is data, one that is plain, and a number."""

    def __init__(self) -> None:
        self.fc, self.mean = linear(6, 4), nnx.data(jnp.zeros(4))
        self.table, self.factor = jnp.linspace(0.5, 2, 4), 1.0

    def __call__(self, x: Array) -> Array:
        return (self.fc(x) - self.mean) * self.table * self.factor


def with_table(port: Any) -> Any:
    port.table = port.table[::-1]
    return port


PLAIN = Port(
    "arrays that are no variables",
    "NNX",
    TorchScaled,
    Scaled,
    normal(2, 6),
    (Rule("running_mean", "mean"), *KERNELS),
    {"fc": "fc"},
    (
        Fault("a table from behind", "model", with_table),
        Fault("a factor of 2", "model", nnx_attribute("", factor=2.0)),
    ),
    {"ignore_port": ("table",)},
)

PORTS = (SCANNED, COMPILED, CHOICE, PLAIN)

"""Both sides are the same function, but do not call it alike: other arguments, other results."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.pairing import Twin
from parity_tests.ports.perceptrons import KERNELS, linear
from parity_tests.ports.planting import nnx_class, nnx_weight
from parity_tests.ports.port import Fault, Port, normal

SAME_NAMES = {"**": "**"}


class TorchTwice(nn.Module):
    """What comes out of `fc` is an output, and so is a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.same, self.out = nn.Linear(6, 4), nn.Identity(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.fc(x)
        z = self.same(y) + self.out(y)
        return y, y[:, 0], (z, {"all": (x, y, z)})


class Identity(nnx.Module):
    def __call__(self, x: Array) -> Array:
        return x


class Twice(nnx.Module):
    def __init__(self) -> None:
        self.fc, self.same, self.out = linear(6, 4), Identity(), linear(4, 4)

    def __call__(self, x: Array) -> Any:
        y = self.fc(x)
        z = self.same(y) + self.out(y)
        return y, self.first(y), (z, {"all": (x, y, z)})

    def first(self, y: Array) -> Array:
        return y[:, 0]


class Last(Twice):
    def first(self, y: Array) -> Array:
        return y[:, -1]


class Frozen(Identity):
    def __call__(self, x: Array) -> Array:
        return jax.lax.stop_gradient(x)


TWICE = Port(
    "outputs that are parts of each other",
    "NNX",
    TorchTwice,
    Twice,
    normal(2, 6),
    KERNELS,
    SAME_NAMES,
    (
        Fault("the last for the first", "model", nnx_class("", Last)),
        Fault("a branch held fast", "same", nnx_class("same", Frozen), "backward"),
        Fault("a square kernel transposed", "out", nnx_weight("out.kernel", jnp.transpose)),
    ),
)


class TorchCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.of_x, self.of_h = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.of_x(x) + self.of_h(h))


class TorchSteps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = TorchCell()

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return h


class Cell(nnx.Module):
    """flax's order: the carry first. Both have one shape, so that exchanged they would fit."""

    def __init__(self) -> None:
        self.of_x, self.of_h = linear(6, 6), linear(6, 6)

    def __call__(self, h: Array, x: Array) -> Array:
        return jnp.tanh(self.of_x(x) + self.of_h(h))


class Soft(Cell):
    def __call__(self, h: Array, x: Array) -> Array:
        return jax.nn.soft_sign(self.of_x(x) + self.of_h(h))


class Steps(nnx.Module):
    def __init__(self) -> None:
        self.cell = Cell()

    def __call__(self, x: Array, h: Array) -> Array:
        for t in range(x.shape[1]):
            h = self.step(h, x[:, t])
        return h

    def step(self, h: Array, x: Array) -> Array:
        return self.cell(h, x)


class Exchanged(Steps):
    def step(self, h: Array, x: Array) -> Array:
        return self.cell(x, h)


CARRY_FIRST = Port(
    "the carry comes first",
    "NNX",
    TorchSteps,
    Steps,
    (normal(2, 3, 6), normal(2, 6, seed=1)),
    KERNELS,
    SAME_NAMES,
)
CARRY_FIRST_ADAPTED = Port(
    "the carry comes first, with an adapter",
    "NNX",
    TorchSteps,
    Steps,
    (normal(2, 3, 6), normal(2, 6, seed=1)),
    KERNELS,
    {"cell": Twin("cell", inputs=lambda x, h: (h, x)), "**": "**"},
    (
        Fault("softsign for tanh", "cell", nnx_class("cell", Soft)),
        Fault("state and input exchanged", "model", nnx_class("", Exchanged)),
        Fault("a kernel transposed", "cell.of_h", nnx_weight("cell.of_h.kernel", jnp.transpose)),
    ),
)


class TorchFilm(nn.Module):
    def forward(self, x: Tensor, *, scale: Tensor, shift: Tensor) -> Tensor:
        return x * scale + shift


class TorchModulated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.film = nn.Linear(6, 8), TorchFilm()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.fc(condition).chunk(2, -1)
        return self.film(x, scale=scale, shift=shift)


class Film(nnx.Module):
    def __call__(self, x: Array, *, shift: Array, scale: Array) -> Array:
        return x * scale + shift


class OnePlusScale(Film):
    def __call__(self, x: Array, *, shift: Array, scale: Array) -> Array:
        return x * (1 + scale) + shift


class Modulated(nnx.Module):
    def __init__(self) -> None:
        self.fc, self.film = linear(6, 8), Film()

    def __call__(self, condition: Array, x: Array) -> Array:
        scale, shift = jnp.split(self.fc(condition), 2, -1)
        return self.film(x, shift=shift, scale=scale)


KEYWORDS = Port(
    "keywords in another order, a dictionary of inputs",
    "NNX",
    TorchModulated,
    Modulated,
    {"x": normal(2, 4), "condition": normal(2, 6, seed=1)},
    KERNELS,
    SAME_NAMES,
    (Fault("a scale of 1 + w", "film", nnx_class("film", OnePlusScale)),),
)


PORTS = (TWICE, CARRY_FIRST, CARRY_FIRST_ADAPTED, KEYWORDS)

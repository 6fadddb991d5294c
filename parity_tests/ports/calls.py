"""Both sides are the same function, but do not call it alike: other arguments, other results."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from jax import Array
from torch import Tensor, nn
from transformers.utils import ModelOutput

from parity_tests.harness.pairing import Twin
from parity_tests.ports.perceptrons import KERNELS, linear
from parity_tests.ports.planting import nnx_class, nnx_weight
from parity_tests.ports.port import Fault, Port, normal

SAME_NAMES = {"**": "**"}


class TorchTwice(nn.Module):
    """What comes out of `fc` is an output, and so is a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.same, self.out = nn.Linear(5, 4), nn.Identity(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.fc(x)
        z = self.same(y) + self.out(y)
        return y, y[:, 0], (z, {"all": (x, y, z)})


class Identity(nnx.Module):
    def __call__(self, x: Array) -> Array:
        return x


class Twice(nnx.Module):
    def __init__(self) -> None:
        self.fc, self.same, self.out = linear(5, 4), Identity(), linear(4, 4)

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
    normal(2, 5),
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
        self.of_x, self.of_h = nn.Linear(4, 4), nn.Linear(4, 4)

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
        self.of_x, self.of_h = linear(4, 4), linear(4, 4)

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
    (normal(2, 3, 4), normal(2, 4, seed=1)),
    KERNELS,
    SAME_NAMES,
)
CARRY_FIRST_ADAPTED = Port(
    "the carry comes first, with an adapter",
    "NNX",
    TorchSteps,
    Steps,
    (normal(2, 3, 4), normal(2, 4, seed=1)),
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
        self.fc, self.film = nn.Linear(5, 8), TorchFilm()

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
        self.fc, self.film = linear(5, 8), Film()

    def __call__(self, condition: Array, x: Array) -> Array:
        scale, shift = jnp.split(self.fc(condition), 2, -1)
        return self.film(x, shift=shift, scale=scale)


KEYWORDS = Port(
    "keywords in another order, a dictionary of inputs",
    "NNX",
    TorchModulated,
    Modulated,
    {"x": normal(2, 4), "condition": normal(2, 5, seed=1)},
    KERNELS,
    SAME_NAMES,
    (Fault("a scale of 1 + w", "film", nnx_class("film", OnePlusScale)),),
)


class TorchMasked(nn.Module):
    """Takes a mask that is added to the scores."""

    def forward(self, q: Tensor, k: Tensor, mask: Tensor) -> Any:
        wei = (q @ k.mT + mask).softmax(-1)
        return wei @ k, wei


class TorchReader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.attention = nn.Linear(5, 4), nn.Linear(5, 4), TorchMasked()

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
        self.query, self.key, self.attention = linear(5, 4), linear(5, 4), attention()

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
    normal(2, 6, 5),
    KERNELS,
    SAME_NAMES,
)
ADDED_MASK_ADAPTED = Port(
    "a mask to add, with an adapter",
    "NNX",
    TorchReader,
    Reader,
    normal(2, 6, 5),
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
    normal(2, 6, 5),
    KERNELS,
    SAME_NAMES,
)


@dataclass
class Out:
    hidden: Any
    more: Any = None


@dataclass
class HuggingOut(ModelOutput):
    hidden: Any = None
    more: Any = None


class Plain:
    def __init__(self, hidden: Any, more: Any) -> None:
        self.hidden, self.more = hidden, more


class TorchInner(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.fc, self.kind = nn.Linear(5, 4), kind

    def forward(self, x: Tensor) -> Any:
        y = self.fc(x)
        return self.kind(hidden=y.tanh(), more=(y * y,))


class TorchBoxed(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.inner, self.kind, self.head = TorchInner(kind), kind, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        inner = self.inner(x)
        return self.kind(hidden=self.head(inner.hidden), more=inner.more)


class Inner(nnx.Module):
    def __init__(self, kind: type) -> None:
        self.fc, self.kind = linear(5, 4), kind

    def __call__(self, x: Array) -> Any:
        y = self.fc(x)
        return self.kind(hidden=jnp.tanh(y), more=(self.second(y),))

    def second(self, y: Array) -> Array:
        return y * y


class Absolute(Inner):
    """Wrong only in what nothing else reads."""

    def second(self, y: Array) -> Array:
        return jnp.abs(y)


class Boxed(nnx.Module):
    def __init__(self, kind: type) -> None:
        self.inner, self.kind, self.head = Inner(kind), kind, linear(4, 3)

    def __call__(self, x: Array) -> Any:
        inner = self.inner(x)
        return self.kind(hidden=self.head(inner.hidden), more=inner.more)


def boxed(name: str, kind: type) -> Port:
    return Port(
        name,
        "NNX",
        lambda: TorchBoxed(kind),
        lambda: Boxed(kind),
        normal(2, 5),
        KERNELS,
        SAME_NAMES,
        (Fault("a wrong array in the object", "inner", nnx_class("inner", Absolute)),),
    )


BOXED = (
    boxed("results in a dataclass", Out),
    boxed("results in an output of transformers", HuggingOut),
    boxed("results in any object", Plain),
)
PORTS = (
    TWICE,
    CARRY_FIRST,
    CARRY_FIRST_ADAPTED,
    KEYWORDS,
    ADDED_MASK,
    ADDED_MASK_ADAPTED,
    POLARITY,
    *BOXED,
)

"""Results in objects: of a dataclass, of transformers, of any class."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from parity_tests.ports.calls import SAME_NAMES
from parity_tests.ports.perceptrons import KERNELS, linear
from parity_tests.ports.planting import nnx_class
from parity_tests.ports.port import Fault, Port, normal


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
        self.fc, self.kind = nn.Linear(6, 4), kind

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
        self.fc, self.kind = linear(6, 4), kind

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
        normal(2, 6),
        KERNELS,
        SAME_NAMES,
        (Fault("a wrong array in the object", "inner", nnx_class("inner", Absolute)),),
    )


PORTS = (
    boxed("results in a dataclass", Out),
    boxed("results in an output of transformers", HuggingOut),
    boxed("results in any object", Plain),
)

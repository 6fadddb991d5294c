"""One call of a layer, in either framework, and what running it again can give."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from parity_tests.harness.marks import Levels
from parity_tests.harness.trees import arrays

Arrays = list[NDArray[Any]]
Key = tuple[str, int]  # name and count of a call
ROOT = "model"  # what reports call the model as a whole, whose own name is empty


@dataclass(frozen=True)
class JaxLayer:
    """A layer of a port as it was before a call, and how jax.vmap mapped it."""

    kind: str  # its class
    values: dict[str, Any]
    rebuild: Callable[[dict[str, Any]], Any]
    levels: Levels  # of the arrays of the arguments, then of `values`
    output_levels: Levels


@dataclass(frozen=True)
class Call:
    """One call of a layer, its arrays as NumPy; anything else as it was passed.

    Arrays inside jax.vmap have the mapped axes first. `layer` is what can be called again: a torch
    module, a JaxLayer, or None after a `tap`, which has an output only.
    """

    name: str  # dotted path; empty for the model itself
    count: int  # 0 for the first call of this layer
    args: tuple
    kwargs: dict[str, Any]
    output: Any
    layer: torch.nn.Module | JaxLayer | None

    @property
    def label(self) -> str:
        return (self.name or ROOT) + (f"#{self.count + 1}" if self.count else "")

    @property
    def inputs(self) -> list[NDArray[Any]]:
        return arrays([self.args, self.kwargs])

    @property
    def outputs(self) -> list[NDArray[Any]]:
        return arrays(self.output)


class NotReplayableError(Exception):
    """A layer that cannot be run alone; why, in words."""


@dataclass(frozen=True)
class Gradients:
    """With respect to the floating-point inputs, in order, and to the weights, by dotted name."""

    inputs: Arrays
    weights: dict[str, NDArray[Any]]


def run(model: Any, inputs: Any) -> Any:
    """model(*inputs) or model(**inputs); an array alone is the one argument."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)

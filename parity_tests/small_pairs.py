"""Pairs of a few lines, one function for both sides where torch and JAX read alike."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from parity_tests import LINEAR, Bridge, Location, Rule, locate
from parity_tests.harness.quick_programs import quickly_compiled

F64 = jnp.float64
KW: dict[str, Any] = {"param_dtype": F64, "dtype": F64}
RULES = (Rule("**.weight", "**.kernel", LINEAR), Rule("**.bias", "**.bias"))
AB = Bridge(RULES)
X = np.random.default_rng(0).normal(size=(2, 3))
FC = {"fc": (3, 4)}
TWO = {"fc1": (3, 4), "fc2": (4, 4)}  # names and sizes of linear layers


@contextmanager
def float64() -> Iterator[None]:
    """And quickly compiled."""
    with jax.enable_x64(True), quickly_compiled():
        yield


class Torch(torch.nn.Module):
    """`forward` is called with the module and its arguments."""

    def __init__(self, forward: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


class Port(nnx.Module):
    def __init__(self, call: Callable[..., Any], **layers: Any) -> None:
        self.function = call
        for name, layer in layers.items():
            setattr(self, name, layer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def linear(n_in: int, n_out: int) -> nnx.Linear:
    return nnx.Linear(n_in, n_out, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0), **KW)


def pair(of_torch: Any, of_port: Any, layers: dict[str, tuple[int, int]] = FC) -> tuple[Any, Any]:
    """Both with the same random weights in linear layers of these names and sizes."""
    torch.manual_seed(0)
    ref = Torch(of_torch, **{n: torch.nn.Linear(*s) for n, s in layers.items()}).double()
    return ref, AB.to_port(ref, Port(of_port, **{n: linear(*s) for n, s in layers.items()}))


def located(
    of_torch: Any,
    of_port: Any,
    layers: dict[str, tuple[int, int]] = FC,
    names: Any = None,
    inputs: Any = X,
    **options: Any,
) -> Location:
    ref, port = pair(of_torch, of_port, layers)
    names = {"**": "**"} if names is None else names
    return locate(ref, port, inputs, names, bridge=AB, **options)


def guilty(location: Location) -> list[tuple[str, str]]:
    return [(check.label, check.direction) for check in location.guilty]

"""A correct port of a torch module and the faults to plant in it: what the harness is judged by."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import NDArray

from parity_tests.harness.bridge import Bridge, Rule
from parity_tests.harness.checks import Direction
from parity_tests.harness.pairing import Twin

FrontEnd = Literal["NNX", "Linen", "Equinox", "function"]
SPREAD = 0.4  # of random weights: a signal keeps its size through layers of about six channels


@dataclass(frozen=True)
class Fault:
    """`plant` makes a faulty port of a correct one, which it may change."""

    name: str
    layer: str  # the reference's name for it, or "model": the one to be named, and no other
    plant: Callable[[Any], Any]
    direction: Direction | Literal["state"] = "forward"  # state: only a buffer of it differs


@dataclass(frozen=True, eq=False)
class Port:
    """A reference and its port, which is the same function once the rules have filled it."""

    name: str
    front_end: FrontEnd
    reference: Callable[[], torch.nn.Module]
    port: Callable[[], Any]
    inputs: Any  # as `locate` takes them, in the reference's layout
    rules: tuple[Rule, ...]
    names: Mapping[str, str | Twin] | Literal["auto"] = "auto"
    faults: tuple[Fault, ...] = ()
    ignore: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # arguments of Bridge
    options: Mapping[str, Any] = field(default_factory=dict)  # further arguments of `locate`
    around: Callable[[], AbstractContextManager[Any]] = nullcontext  # building and comparing
    modes: bool = False  # the reference is in training mode

    @property
    def bridge(self) -> Bridge:
        return Bridge(self.rules, **self.ignore)

    def pair(self) -> tuple[torch.nn.Module, Any]:
        """Both in float64 with the same random weights. For a caller with x64 on."""
        torch.manual_seed(0)
        reference = randomized(self.reference().double()).train(self.modes)
        return reference, self.bridge.to_port(reference, self.port())


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight at random: a bias of zero or a scale of one would hide what is done with it."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=SPREAD)
            if weight.ndim == 1 and name.endswith("weight"):
                weight += 1
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model


def unfilled(make: Callable[..., Any], *inputs: Any) -> Any:
    """What `make` makes, with zeros for arrays: random numbers would take their time to compile."""
    return jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x,
        eqx.filter_eval_shape(make, *inputs),
    )


def normal(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=shape)


def tokens(below: int, *shape: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(below, size=shape)

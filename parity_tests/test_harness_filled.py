"""A layer that fills what it is given, which was empty before: a cache, a dict of activations."""

from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

from parity_tests.harness.bridge import Bridge, Rule
from parity_tests.harness.layouts import LINEAR
from parity_tests.harness.locate import locate

BRIDGE = Bridge([Rule("**.weight", "**.kernel", LINEAR), Rule("**.bias", "**.bias")])


class Cache:
    """As transformers' is: nothing until a layer puts something in."""

    def __init__(self) -> None:
        self.keys: list[Any] = []


class TorchBlock(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, cache: Cache) -> torch.Tensor:
        cache.keys.append(self.fc(x))
        return x + torch.tanh(torch.cat(cache.keys)).sum(0)


class Torch(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = TorchBlock(), TorchBlock()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x, Cache()), Cache())


class PortBlock(nnx.Module):
    def __init__(self) -> None:
        self.fc = nnx.Linear(3, 3, param_dtype=np.float64, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array, cache: Cache | None = None) -> jax.Array:
        cache = Cache() if cache is None else cache
        cache.keys.append(self.fc(x))
        return x + jax.numpy.tanh(jax.numpy.concatenate(cache.keys)).sum(0)


class Port(nnx.Module):
    """Without a cache; `Filling` gives its layers one."""

    def __init__(self) -> None:
        self.one, self.two = PortBlock(), PortBlock()

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.two(self.one(x))


class Filling(Port):
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.two(self.one(x, Cache()), Cache())


NAMES = {"{block}": "{block}", "{block}.fc": "{block}.fc"}


def test_each_pass_begins_with_what_was_empty() -> None:
    torch.manual_seed(0)
    ref = Torch().double()
    x = np.random.default_rng(0).normal(size=(2, 3))
    for kind in (Port, Filling):
        with jax.enable_x64(True):
            port = BRIDGE.to_port(ref, kind())
            location = locate(ref, port, x, NAMES, bridge=BRIDGE)
        assert (location.ok, location.inside) == (True, ()), location

"""Dilated causal convolutions, which the port pads in the layer and the reference before it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.bridge import CONV1D, Rule
from parity_tests.harness.pairing import Twin
from parity_tests.ports.convolutions import SEQUENCE, float64
from parity_tests.ports.norms import affine
from parity_tests.ports.planting import nnx_attribute, nnx_class
from parity_tests.ports.port import Fault, Port, normal


class TorchGated(nn.Module):
    """One block as in WaveNet: causal, dilated, gated."""

    def __init__(self) -> None:
        super().__init__()
        self.dilated, self.out = nn.Conv1d(4, 6, 3, dilation=2), nn.Conv1d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.dilated(nn.functional.pad(x, (4, 0))).chunk(2, dim=1)
        return x + self.out(value.tanh() * gate.sigmoid())


class TorchWave(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.norm = nn.ModuleList(TorchGated() for _ in range(2)), nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Gated(nnx.Module):
    def __init__(self) -> None:
        self.dilated = nnx.Conv(4, 6, (3,), kernel_dilation=2, padding="CAUSAL", **float64())
        self.out = nnx.Conv(3, 4, (1,), **float64())

    def __call__(self, x: Array) -> Array:
        value, gate = jnp.split(self.dilated(x), 2, axis=-1)
        return x + self.out(jnp.tanh(value) * jax.nn.sigmoid(gate))


class GateFirst(Gated):
    def __call__(self, x: Array) -> Array:
        gate, value = jnp.split(self.dilated(x), 2, axis=-1)
        return x + self.out(jnp.tanh(value) * jax.nn.sigmoid(gate))


class Interleaved(Gated):
    def __call__(self, x: Array) -> Array:
        y = self.dilated(x)
        return x + self.out(jnp.tanh(y[..., ::2]) * jax.nn.sigmoid(y[..., 1::2]))


class InterleavedGroups(nnx.GroupNorm):
    """Channels 0, 2 and 1, 3 together."""

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        y = x.reshape(*x.shape[:-1], 2, 2)
        y = y - y.mean((1, 2), keepdims=True)
        y /= jnp.sqrt(y.var((1, 2), keepdims=True) + 1e-5)
        return affine(self, y.reshape(x.shape))


class Wave(nnx.Module):
    def __init__(self) -> None:
        self.blocks = nnx.List([Gated(), Gated()])
        self.norm = nnx.GroupNorm(4, num_groups=2, epsilon=1e-5, **float64())

    def __call__(self, x: Array) -> Array:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def unpadded(x: Any) -> tuple[Any]:
    """The port's convolution pads by itself."""
    return (x[..., 4:],)


WAVE_RULES = (
    Rule("norm.weight", "norm.scale"),
    Rule("**.weight", "**.kernel", CONV1D),
    Rule("**.bias", "**.bias"),
)
WAVE_NAMES = {"": Twin("", SEQUENCE), "**": Twin("**", SEQUENCE)}
WAVE = Port(
    "dilated convolutions padded in the layer",
    "NNX",
    TorchWave,
    Wave,
    normal(2, 4, 10),
    WAVE_RULES,
    WAVE_NAMES,
    (
        Fault("gate and value exchanged", "blocks.1", nnx_class("blocks.1", GateFirst)),
        Fault("gate and value interleaved", "blocks.0", nnx_class("blocks.0", Interleaved)),
        Fault("groups interleaved", "norm", nnx_class("norm", InterleavedGroups)),
        Fault("epsilon 1e-6 for 1e-5", "norm", nnx_attribute("norm", epsilon=1e-6)),
    ),
)
DILATED = "blocks.1.dilated"
ADAPTED_WAVE = Port(
    "dilated convolutions with an adapter",
    "NNX",
    TorchWave,
    Wave,
    normal(2, 4, 10),
    WAVE_RULES,
    {"blocks.{i}.dilated": Twin("blocks.{i}.dilated", SEQUENCE, inputs=unpadded)} | WAVE_NAMES,
    (
        Fault("not causal", DILATED, nnx_attribute(DILATED, padding="SAME")),
        Fault("not dilated", DILATED, nnx_attribute(DILATED, kernel_dilation=1)),
    ),
)


PORTS = (WAVE, ADAPTED_WAVE)

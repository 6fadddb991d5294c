"""Depthwise convolution, squeeze and excite, upsampling; channels last in the port."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.bridge import CONV2D, LINEAR, Rule
from parity_tests.harness.pairing import Twin
from parity_tests.ports.convolutions import IMAGE, conv, float64
from parity_tests.ports.perceptrons import linear
from parity_tests.ports.planting import nnx_class
from parity_tests.ports.port import Fault, Port, normal


class TorchMobile(nn.Module):
    """A depthwise convolution, and squeeze-and-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.pointwise = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 4, 1)
        self.squeeze, self.excite = nn.Linear(4, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pointwise(nn.functional.hardswish(self.depthwise(x)))
        scale = self.excite(self.squeeze(x.mean((2, 3))).tanh()).sigmoid()
        return x * scale[:, :, None, None]


class Mobile(nnx.Module):
    def __init__(self) -> None:
        self.depthwise = conv(6, 6, 3, feature_group_count=6)
        self.pointwise = conv(6, 4, 1)
        self.squeeze, self.excite = linear(4, 3), linear(3, 4)

    def __call__(self, x: Array) -> Array:
        x = self.pointwise(self.act(self.depthwise(x)))
        return x * self.scale(x)

    def act(self, x: Array) -> Array:
        return jax.nn.hard_swish(x)

    def scale(self, x: Array) -> Array:
        y = jnp.tanh(self.squeeze(x.mean((1, 2))))
        return jax.nn.sigmoid(self.excite(y))[:, None, None, :]


class SmoothSwish(Mobile):
    def act(self, x: Array) -> Array:
        return jax.nn.swish(x)


class HardGate(Mobile):
    def scale(self, x: Array) -> Array:
        y = jnp.tanh(self.squeeze(x.mean((1, 2))))
        return jax.nn.hard_sigmoid(self.excite(y))[:, None, None, :]


class SqueezedByMax(Mobile):
    def scale(self, x: Array) -> Array:
        y = jnp.tanh(self.squeeze(x.max((1, 2))))
        return jax.nn.sigmoid(self.excite(y))[:, None, None, :]


class TurnedRound(nnx.Conv):
    """What a signal processor calls a convolution."""

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        return super().__call__(inputs[:, ::-1, ::-1])[:, ::-1, ::-1]


MOBILE = Port(
    "depthwise convolution, squeeze and excite",
    "NNX",
    TorchMobile,
    Mobile,
    normal(2, 6, 8, 5),
    (
        Rule("squeeze.weight", "squeeze.kernel", LINEAR),
        Rule("excite.weight", "excite.kernel", LINEAR),
        Rule("{layer}.weight", "{layer}.kernel", CONV2D),
        Rule("**.bias", "**.bias"),
    ),
    {"": Twin("", IMAGE), "**": Twin("**", IMAGE)},
    (
        Fault("a kernel turned round", "depthwise", nnx_class("depthwise", TurnedRound)),
        Fault("swish for hard swish", "model", nnx_class("", SmoothSwish)),
        Fault("hard sigmoid for sigmoid", "model", nnx_class("", HardGate)),
        Fault("maximum for mean", "model", nnx_class("", SqueezedByMax)),
    ),
)


class TorchUpsampler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        )
        self.norm = nn.InstanceNorm2d(4, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.up(self.conv(x)))


def stretch(length: int, to: int) -> np.ndarray:
    """[to length]: linear interpolation whose first and last points stay where they are."""
    at = np.arange(to) * (length - 1) / (to - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(length)))


class Upsample(nnx.Module):
    def __call__(self, x: Array) -> Array:
        rows, columns = (stretch(size, 2 * size) for size in x.shape[1:3])
        return jnp.einsum("hi,wj,bijc->bhwc", rows, columns, x)


class HalfPixels(Upsample):
    def __call__(self, x: Array) -> Array:
        B, H, W, C = x.shape
        return jax.image.resize(x, (B, 2 * H, 2 * W, C), "bilinear")


class Upsampler(nnx.Module):
    def __init__(self) -> None:
        self.conv, self.up = conv(3, 4, 3), Upsample()
        self.norm = nnx.InstanceNorm(4, epsilon=1e-5, **float64())

    def __call__(self, x: Array) -> Array:
        return self.norm(self.up(self.conv(x)))


UPSAMPLER = Port(
    "upsampling, instance norm",
    "NNX",
    TorchUpsampler,
    Upsampler,
    normal(2, 3, 4, 5),
    (
        Rule("norm.weight", "norm.scale"),
        Rule("conv.weight", "conv.kernel", CONV2D),
        Rule("**.bias", "**.bias"),
    ),
    {"": Twin("", IMAGE), "**": Twin("**", IMAGE)},
    (Fault("corners not aligned", "up", nnx_class("up", HalfPixels)),),
)


PORTS = (MOBILE, UPSAMPLER)

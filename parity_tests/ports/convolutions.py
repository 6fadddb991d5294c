"""Convolutions, pooling and what goes with them, channels last in the port. Even sizes: at odd
ones "SAME" is torch's padding."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.bridge import CONV2D, LINEAR, Rule
from parity_tests.harness.pairing import Twin
from parity_tests.ports.perceptrons import linear
from parity_tests.ports.planting import nnx_attribute, nnx_class
from parity_tests.ports.port import Fault, Port, normal

IMAGE, SEQUENCE = (0, 2, 3, 1), (0, 2, 1)


def float64() -> Any:
    return {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}


def conv(n_in: int, n_out: int, size: int, **options: Any) -> nnx.Conv:
    options |= {"padding": size // 2, "kernel_init": nnx.initializers.zeros}
    return nnx.Conv(n_in, n_out, (size, size), **options, **float64())


class TorchConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv, self.average = nn.Conv2d(6, 5, 3, padding=1), nn.AvgPool2d(3, 2, padding=1)
        self.head = nn.Linear(5 * 2 * 1, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.norm(self.stem(x)).relu())
        return self.head(self.average(self.conv(x)).flatten(1))


BY_ONE: Any = ((1, 1), (1, 1))  # flax's annotation knows of names alone


class MaxPool(nnx.Module):
    def __call__(self, x: Array) -> Array:
        return nnx.max_pool(x, (3, 3), (2, 2), padding=BY_ONE)


class SamePool(MaxPool):
    def __call__(self, x: Array) -> Array:
        return nnx.max_pool(x, (3, 3), (2, 2), padding="SAME")


class AveragePool(nnx.Module):
    def __call__(self, x: Array) -> Array:
        return nnx.avg_pool(x, (3, 3), (2, 2), padding=BY_ONE)


class PaddingLeftOut(AveragePool):
    def __call__(self, x: Array) -> Array:
        return nnx.avg_pool(x, (3, 3), (2, 2), padding=BY_ONE, count_include_pad=False)


def batch_norm(width: int) -> nnx.BatchNorm:
    norm = nnx.BatchNorm(width, use_running_average=True, epsilon=1e-5, **float64())
    # NNX keeps them in float32 whatever it is told.
    norm.mean, norm.var = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))
    return norm


class BatchOfNow(nnx.BatchNorm):
    def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Array:
        return super().__call__(x, use_running_average=False)


class ConvNet(nnx.Module):
    def __init__(self) -> None:
        self.stem, self.norm = conv(3, 6, 3, strides=2), batch_norm(6)
        self.pool, self.average = MaxPool(), AveragePool()
        self.conv, self.head = conv(6, 5, 3), linear(10, 4)

    def __call__(self, x: Array) -> Array:
        x = self.pool(jax.nn.relu(self.norm(self.stem(x))))
        return self.head(self.flat(self.average(self.conv(x))))

    def flat(self, x: Array) -> Array:
        return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


class ChannelsLastFlat(ConvNet):
    def flat(self, x: Array) -> Array:
        return x.reshape(len(x), -1)


CONVNET = Port(
    "convolutions with batch norm",
    "NNX",
    TorchConvNet,
    ConvNet,
    normal(2, 3, 12, 8),
    (
        Rule("norm.weight", "norm.scale"),
        Rule("norm.running_mean", "norm.mean"),
        Rule("norm.running_var", "norm.var"),
        Rule("head.weight", "head.kernel", LINEAR),
        Rule("{layer}.weight", "{layer}.kernel", CONV2D),
        Rule("**.bias", "**.bias"),
    ),
    {"": Twin("", IMAGE), "**": Twin("**", IMAGE)},
    (
        Fault("SAME padding at stride 2", "stem", nnx_attribute("stem", padding="SAME")),
        Fault("SAME padding of a pool", "pool", nnx_class("pool", SamePool)),
        Fault("padding left out of an average", "average", nnx_class("average", PaddingLeftOut)),
        Fault("flattened channels last", "model", nnx_class("", ChannelsLastFlat)),
        Fault("epsilon 1e-3 for 1e-5", "norm", nnx_attribute("norm", epsilon=1e-3)),
        Fault("statistics of the batch", "norm", nnx_class("norm", BatchOfNow)),
    ),
    {"ignore": ("**.num_batches_tracked",)},
)


PORTS = (CONVNET,)

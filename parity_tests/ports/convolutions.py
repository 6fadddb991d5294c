"""Convolutions, pooling and what goes with them, channels last in the port. Even sizes: at odd
ones "SAME" is torch's padding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.bridge import CONV1D, CONV2D, LINEAR, Rule
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


class MaxPool(nnx.Module):
    def __call__(self, x: Array) -> Array:
        return nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


class SamePool(MaxPool):
    def __call__(self, x: Array) -> Array:
        return nnx.max_pool(x, (3, 3), (2, 2), padding="SAME")


class AveragePool(nnx.Module):
    def __call__(self, x: Array) -> Array:
        return nnx.avg_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


class PaddingLeftOut(AveragePool):
    def __call__(self, x: Array) -> Array:
        return nnx.avg_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)), count_include_pad=False)


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
        return y.reshape(x.shape) * self.scale[...] + self.bias[...]


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

PORTS = (CONVNET, MOBILE, WAVE, ADAPTED_WAVE, UPSAMPLER)

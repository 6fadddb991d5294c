"""Flax Linen modules, bound to their variables."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import torch
from jax import Array
from torch import Tensor

from parity_tests.harness.bridge import CONV1D, CONV2D, LINEAR, Rule
from parity_tests.harness.pairing import Twin
from parity_tests.ports.planting import linen
from parity_tests.ports.port import Fault, Port, normal, unfilled

F64 = jnp.float64
Dense = partial(nn.Dense, param_dtype=F64, kernel_init=nn.initializers.zeros)
Conv = partial(nn.Conv, param_dtype=F64, kernel_init=nn.initializers.zeros)
Norm = partial(nn.LayerNorm, param_dtype=F64, epsilon=1e-5)
KERNELS = (Rule("**.weight", "**.kernel", LINEAR), Rule("**.bias", "**.bias"))
IMAGE = (0, 2, 3, 1)


def bound(module: nn.Module, *inputs: Any) -> nn.Module:
    return module.bind(unfilled(module.init, jax.random.key(0), *inputs))


class TorchPatches(torch.nn.Module):
    """The beginning and the end of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Conv2d(3, 6, (2, 4), stride=(2, 4))
        self.position = torch.nn.Parameter(torch.zeros(7, 6))
        self.first = torch.nn.Parameter(torch.zeros(1, 1, 6))
        self.norm, self.head = torch.nn.LayerNorm(6), torch.nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).mT
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(x))


class Patches(nn.Module):
    epsilon: float = 1e-5
    columns_first: bool = False
    first_is_last: bool = False
    first_has_place: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(6, (2, 4), (2, 4), padding="VALID", name="embed")(x)
        x = (x.swapaxes(1, 2) if self.columns_first else x).reshape(len(x), -1, 6)
        first = self.param("first", nn.initializers.zeros, (1, 1, 6), F64)
        place = self.param("position", nn.initializers.zeros, (7, 6), F64)
        first = jnp.broadcast_to(first, (len(x), 1, 6))
        if not self.first_has_place:
            first -= place[0]
        x = jnp.concatenate([x, first] if self.first_is_last else [first, x], 1) + place
        return Dense(5, name="head")(Norm(epsilon=self.epsilon, name="norm")(x))


PATCHES = Port(
    "patches of a vision transformer",
    "Linen",
    TorchPatches,
    lambda: bound(Patches(), jnp.zeros((1, 4, 12, 3))),
    normal(2, 3, 4, 12),
    (
        Rule("position", "position"),
        Rule("first", "first"),
        Rule("embed.weight", "embed.kernel", CONV2D),
        Rule("norm.weight", "norm.scale"),
        *KERNELS,
    ),
    {"": Twin("", IMAGE), "embed": Twin("embed", IMAGE), "norm": "norm", "head": "head"},
    (
        Fault("patches column by column", "model", linen(columns_first=True)),
        Fault("the class token last", "model", linen(first_is_last=True)),
        Fault("no position for the class token", "model", linen(first_has_place=False)),
        Fault("flax's epsilon", "norm", linen(epsilon=1e-6)),
    ),
)


class TorchResNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.BatchNorm2d(4)
        self.down = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.act = torch.nn.ELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(x + self.act(self.bn(self.conv(x))))


class ELU(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        return jax.nn.elu(x)


class CELU(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        return jax.nn.celu(x, 0.5)


class ResNet(nn.Module):
    act: type[nn.Module] = ELU
    padding: Any = 1
    epsilon: float = 1e-5
    residual_of: str = "input"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = Conv(4, (3, 3), padding=1, name="conv")(x)
        x = {"input": x, "convolution": y}[self.residual_of]
        y = nn.BatchNorm(True, epsilon=self.epsilon, param_dtype=F64, name="bn")(y)
        x = x + self.act(name="act")(y)
        return Conv(6, (3, 3), 2, padding=self.padding, use_bias=False, name="down")(x)


def resnet() -> nn.Module:
    module, variables = bound(ResNet(), jnp.zeros((1, 8, 6, 4))).unbind()
    return module.bind(jax.tree.map(lambda x: x.astype(F64), variables))


RESNET = Port(
    "residual convolutions with batch norm",
    "Linen",
    TorchResNet,
    resnet,
    normal(2, 4, 8, 6),
    (
        Rule("bn.weight", "bn.scale"),
        Rule("bn.running_mean", "bn.mean"),
        Rule("bn.running_var", "bn.var"),
        Rule("**.weight", "**.kernel", CONV2D),
        Rule("**.bias", "**.bias"),
    ),
    {"": Twin("", IMAGE), "**": Twin("**", IMAGE)},
    (
        Fault("CELU of another alpha", "act", linen(act=CELU)),
        Fault("SAME padding at stride 2", "down", linen(padding="SAME")),
        Fault("epsilon 1e-3 for 1e-5", "bn", linen(epsilon=1e-3)),
        Fault("residual from the wrong place", "model", linen(residual_of="convolution")),
    ),
    {"ignore": ("**.num_batches_tracked",)},
)


class TorchDecoder(torch.nn.Module):
    """Latents to a signal, by transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.ConvTranspose1d(4, 3, 4, stride=2, padding=1)
        self.act, self.out = torch.nn.SiLU(), torch.nn.Conv1d(3, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.up(x)))


class SiLU(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        return jax.nn.silu(x)


class Decoder(nn.Module):
    padding: Any = ((2, 2),)
    act: type[nn.Module] = SiLU

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.ConvTranspose(
            3, (4,), (2,), padding=self.padding, transpose_kernel=True,
            param_dtype=F64, name="up",
        )(x)  # fmt: skip
        return Conv(2, (3,), padding=1, name="out")(self.act(name="act")(x))


class FrozenSiLU(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        return x * jax.lax.stop_gradient(jax.nn.sigmoid(x))


SEQUENCE = (0, 2, 1)
DECODER = Port(
    "transposed convolution",
    "Linen",
    TorchDecoder,
    lambda: bound(Decoder(), jnp.zeros((1, 6, 4))),
    normal(2, 4, 6),
    (Rule("**.weight", "**.kernel", CONV1D), Rule("**.bias", "**.bias")),
    {"": Twin("", SEQUENCE), "**": Twin("**", SEQUENCE)},
    (
        Fault("one place further left", "up", linen(padding=((1, 3),))),
        Fault("a stray stop_gradient", "act", linen(act=FrozenSiLU), "backward"),
    ),
)


PORTS = (PATCHES, RESNET, DECODER)

"""Flax Linen modules, bound to their variables."""

from collections.abc import Callable
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
from parity_tests.ports.port import Fault, Port, normal, tokens

F64 = jnp.float64
Dense = partial(nn.Dense, param_dtype=F64, kernel_init=nn.initializers.zeros)
Conv = partial(nn.Conv, param_dtype=F64, kernel_init=nn.initializers.zeros)
Norm = partial(nn.LayerNorm, param_dtype=F64, epsilon=1e-5)
KERNELS = (Rule("**.weight", "**.kernel", LINEAR), Rule("**.bias", "**.bias"))
IMAGE = (0, 2, 3, 1)


def bound(module: nn.Module, *inputs: Any) -> nn.Module:
    return module.bind(jax.jit(module.init)(jax.random.key(0), *inputs))


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
        Rule("bn.running_{what}", "bn.{what}"),
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


class TorchTied(torch.nn.Module):
    """A language model's two ends, and a mixture of experts between them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router = torch.nn.Embedding(11, 6), torch.nn.Linear(6, 3)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(3))
        self.head = torch.nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) * 6**0.5
        weights = self.router(x).softmax(-1)
        outputs = torch.stack([expert(x) for expert in self.experts], -1)
        return self.head((outputs * weights[..., None, :]).sum(-1))


class Tied(nn.Module):
    scale: float = 6**0.5
    axis: int = -1

    def setup(self) -> None:
        self.embed = nn.Embed(11, 6, param_dtype=F64)
        self.router = Dense(3)
        self.experts = nn.vmap(
            nn.Dense, in_axes=None, out_axes=-1, axis_size=3, variable_axes={"params": 0},
            split_rngs={"params": True},
        )(6, param_dtype=F64)  # fmt: skip

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(tokens) * self.scale
        weights = jax.nn.softmax(self.router(x), axis=self.axis)
        return self.embed.attend((self.experts(x) * weights[..., None, :]).sum(-1))


TIED = Port(
    "tied embedding and experts under nn.vmap",
    "Linen",
    TorchTied,
    lambda: bound(Tied(), jnp.zeros((1, 2), int)),
    tokens(11, 2, 5),
    (
        Rule("embed.weight", "embed.embedding"),
        Rule("head.weight", "embed.embedding", alias=True),
        Rule(
            "experts.{i}.weight",
            "experts.kernel",
            LINEAR,
            over={"i": range(3)},
            at=lambda i: (i,),
        ),
        Rule("experts.{i}.bias", "experts.bias", over={"i": range(3)}, at=lambda i: (i,)),
        Rule("router.weight", "router.kernel", LINEAR),
        Rule("router.bias", "router.bias"),
    ),
    {"embed": "embed", "router": "router"},
    (
        Fault("embeddings not scaled up", "model", linen(scale=1.0)),
        Fault("softmax over the positions", "model", linen(axis=-2)),
    ),
)


class TorchStack(torch.nn.Module):
    """Three equal blocks and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(5, 5) for _ in range(3))
        self.rnn = torch.nn.RNN(5, 4, batch_first=True)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.head(self.rnn(x)[0])


class StackedBlock(nn.Module):
    f: Callable[[Array], Array] = jnp.tanh

    def setup(self) -> None:
        self.fc = Dense(5)

    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        return x + self.f(self.fc(x)), None


class RecurrentStep(nn.Module):
    @nn.compact
    def __call__(self, h: Array, x: Array) -> tuple[Array, Array]:
        h = jnp.tanh(Dense(4, name="input")(x) + Dense(4, name="state")(h))
        return h, h


class Stack(nn.Module):
    """Depth and time both under nn.scan, the head under nn.remat."""

    f: Callable[[Array], Array] = jnp.tanh
    backwards: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        params = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        x, _ = nn.scan(nn.remat(StackedBlock), length=3, **params)(self.f, name="blocks")(x, None)
        steps = nn.scan(
            RecurrentStep, variable_broadcast="params", split_rngs={"params": False},
            in_axes=1, out_axes=1, reverse=self.backwards,
        )(name="rnn")  # fmt: skip
        _, x = steps(jnp.zeros((len(x), 4), x.dtype), x)
        return nn.remat(nn.Dense)(3, param_dtype=F64, name="head")(x)


STACK = Port(
    "depth and time under nn.scan, nn.remat",
    "Linen",
    TorchStack,
    lambda: bound(Stack(), jnp.zeros((1, 2, 5))),
    normal(2, 4, 5),
    (
        Rule(
            "blocks.{i}.weight",
            "blocks.fc.kernel",
            LINEAR,
            over={"i": range(3)},
            at=lambda i: (i,),
        ),
        Rule("blocks.{i}.bias", "blocks.fc.bias", over={"i": range(3)}, at=lambda i: (i,)),
        Rule("rnn.weight_ih_l0", "rnn.input.kernel", LINEAR),
        Rule("rnn.weight_hh_l0", "rnn.state.kernel", LINEAR),
        Rule("rnn.bias_ih_l0", "rnn.input.bias"),
        Rule("rnn.bias_hh_l0", "rnn.state.bias"),
        Rule("head.weight", "head.kernel", LINEAR),
        Rule("head.bias", "head.bias"),
    ),
    {"head": "head"},
    (
        Fault("softsign for tanh in every block", "model", linen(f=jax.nn.soft_sign)),
        Fault("time runs backwards", "model", linen(backwards=True)),
    ),
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

PORTS = (PATCHES, RESNET, TIED, STACK, DECODER)

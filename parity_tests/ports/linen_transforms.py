"""Flax Linen under nn.vmap, nn.scan and nn.remat."""

from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import torch
from jax import Array
from torch import Tensor

from parity_tests.harness.bridge import LINEAR, Rule
from parity_tests.ports.linen_ports import F64, Dense, bound
from parity_tests.ports.planting import linen
from parity_tests.ports.port import Fault, Port, normal, tokens


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


PER_LAYER: Any = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}


class Tied(nn.Module):
    scale: float = 6**0.5
    axis: int = -1

    def setup(self) -> None:
        self.embed = nn.Embed(11, 6, param_dtype=F64)
        self.router = Dense(3)
        self.experts = nn.vmap(
            nn.Dense, **PER_LAYER, in_axes=cast(int, None), out_axes=-1, axis_size=3
        )(6, param_dtype=F64)

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
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(3))
        self.rnn = torch.nn.RNN(6, 4, batch_first=True)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.head(self.rnn(x)[0])


class StackedBlock(nn.Module):
    f: Callable[[Array], Array] = jnp.tanh

    def setup(self) -> None:
        self.fc = Dense(6)

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
        x, _ = nn.scan(nn.remat(StackedBlock), length=3, **PER_LAYER)(self.f, name="blocks")(
            x, None
        )
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
    lambda: bound(Stack(), jnp.zeros((1, 2, 6))),
    normal(2, 5, 6),
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


PORTS = (TIED, STACK)

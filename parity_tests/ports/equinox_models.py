"""More of Equinox: Sequential and Lambda, embeddings, an ensemble, an LSTM."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.bridge import Rule
from parity_tests.ports.equinox_ports import SAME_NAMES, SAME_WEIGHTS, key
from parity_tests.ports.planting import eqx_attribute, eqx_class
from parity_tests.ports.port import Fault, Port, normal, tokens, unfilled


def linear(n_in: int, n_out: int) -> eqx.nn.Linear:
    return eqx.nn.Linear(n_in, n_out, dtype=jnp.float64, key=key())


def gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


class Rows(eqx.Module):
    """A model of one example, for a batch."""

    one: Any

    def __call__(self, x: Array) -> Array:
        return jax.vmap(self.one)(x)


def sequential() -> Rows:
    act, norm = eqx.nn.Lambda(gelu), eqx.nn.LayerNorm(6, dtype=jnp.float64)
    return Rows(eqx.nn.Sequential([linear(5, 6), act, norm, linear(6, 3)]))


SEQUENTIAL = Port(
    "eqx.nn.Sequential with Lambda",
    "Equinox",
    lambda: nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 3)),
    lambda: unfilled(sequential),
    normal(2, 5),
    (
        Rule("{i}.weight", "one.layers.{i}.weight"),
        Rule("{i}.bias", "one.layers.{i}.bias"),
    ),
    {"{i}": "one.layers.{i}"},
    (
        Fault("tanh GELU for the exact one", "1", eqx_attribute("one.layers.1", fn=jax.nn.gelu)),
        Fault("epsilon 1e-6 for 1e-5", "2", eqx_attribute("one.layers.2", eps=1e-6)),
    ),
)


class TorchReader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 6), nn.Embedding(8, 6)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 11)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.tokens(ids) + self.places(torch.arange(ids.shape[1]))))


class Reader(eqx.Module):
    tokens: eqx.nn.Embedding
    places: eqx.nn.Embedding
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self) -> None:
        self.tokens = eqx.nn.Embedding(11, 6, dtype=jnp.float64, key=key())
        self.places = eqx.nn.Embedding(8, 6, dtype=jnp.float64, key=key())
        self.norm, self.head = eqx.nn.LayerNorm(6, dtype=jnp.float64), linear(6, 11)

    def __call__(self, ids: Array) -> Array:
        return jax.vmap(self.one)(ids)

    def one(self, ids: Array) -> Array:
        x = jax.vmap(self.tokens)(ids) + jax.vmap(self.places)(self.positions(len(ids)))
        return jax.vmap(lambda x: self.head(self.norm(x)))(x)

    def positions(self, T: int) -> Array:
        return jnp.arange(T)


class FromOne(Reader):
    def positions(self, T: int) -> Array:
        return jnp.arange(1, T + 1)


class NotCentred(eqx.nn.LayerNorm):
    """The root-mean-square alone."""

    def __call__(self, x: Array, *arguments: Any, **options: Any) -> Any:
        assert self.weight is not None
        assert self.bias is not None
        return x / jnp.sqrt((x * x).mean() + 1e-5) * self.weight + self.bias


READER = Port(
    "embeddings under jax.vmap",
    "Equinox",
    TorchReader,
    lambda: unfilled(Reader),
    tokens(11, 2, 5),
    SAME_WEIGHTS,
    {"**": "**"},
    (
        Fault("positions from 1", "model", eqx_class("", FromOne)),
        Fault("a mean not taken off", "norm", eqx_class("norm", NotCentred)),
    ),
)


class TorchEnsemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.members, self.head = nn.ModuleList(nn.Linear(5, 4) for _ in range(3)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([m(x).tanh() for m in self.members]).mean(0))


class Ensemble(eqx.Module):
    members: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self) -> None:
        self.members = eqx.filter_vmap(lambda _: linear(5, 4))(jnp.arange(3))
        self.head = linear(4, 2)

    def __call__(self, x: Array) -> Array:
        each = eqx.filter_vmap(
            lambda member, x: jax.vmap(member)(x), in_axes=(eqx.if_array(0), None)
        )
        return jax.vmap(self.head)(self.together(each(self.members, x)))

    def together(self, y: Array) -> Array:
        return jnp.tanh(y).mean(0)


class TanhOfMean(Ensemble):
    def together(self, y: Array) -> Array:
        return jnp.tanh(y.mean(0))


ENSEMBLE = Port(
    "an ensemble under eqx.filter_vmap",
    "Equinox",
    TorchEnsemble,
    lambda: unfilled(Ensemble),
    normal(2, 5),
    (
        Rule("members.{i}.weight", "members.weight", over={"i": range(3)}, at=lambda i: (i,)),
        Rule("members.{i}.bias", "members.bias", over={"i": range(3)}, at=lambda i: (i,)),
        Rule("head.weight", "head.weight"),
        Rule("head.bias", "head.bias"),
    ),
    {"head": "head"},
    (Fault("tanh of the mean", "model", eqx_class("", TanhOfMean)),),
)


class TorchLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(len(x), 3, dtype=x.dtype)
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
        return self.head(h)


class LSTMCell(eqx.Module):
    weight_ih: Array
    weight_hh: Array
    bias_ih: Array
    bias_hh: Array
    order: str = eqx.field(static=True, default="ifgo")

    def __call__(self, x: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        h, c = state
        gates = x @ self.weight_ih.T + self.bias_ih + h @ self.weight_hh.T + self.bias_hh
        gate = dict(zip(self.order, jnp.split(gates, 4, -1), strict=True))
        i, f, o = (jax.nn.sigmoid(gate[name]) for name in "ifo")
        c = f * c + i * jnp.tanh(gate["g"])
        return self.output(o, c), c

    def output(self, o: Array, c: Array) -> Array:
        return o * jnp.tanh(c)


class NoTanh(LSTMCell):
    def output(self, o: Array, c: Array) -> Array:
        return o * c


class LSTM(eqx.Module):
    cell: LSTMCell
    head: eqx.nn.Linear

    def __init__(self) -> None:
        bias = jnp.zeros(12)
        self.cell = LSTMCell(jnp.zeros((12, 4)), jnp.zeros((12, 3)), bias, bias)
        self.head = eqx.nn.Linear(3, 2, dtype=jnp.float64, key=key())

    def __call__(self, x: Array) -> Array:
        h = c = jnp.zeros((len(x), 3))
        for t in self.times(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
        return jax.vmap(self.head)(h)

    def times(self, T: int) -> range:
        return range(T)


class Backwards(LSTM):
    def times(self, T: int) -> range:
        return range(T - 1, -1, -1)


LSTM_PORT = Port(
    "LSTM, step by step",
    "Equinox",
    TorchLSTM,
    lambda: unfilled(LSTM),
    normal(2, 3, 4),
    SAME_WEIGHTS,
    SAME_NAMES,
    (
        Fault("gates in another order", "cell", eqx_attribute("cell", order="igfo")),
        Fault("no tanh of the state", "cell", eqx_class("cell", NoTanh)),
        Fault("time runs backwards", "model", eqx_class("", Backwards)),
    ),
)


PORTS = (SEQUENTIAL, READER, ENSEMBLE, LSTM_PORT)

"""More plain functions: convolutions by jax.lax, weights and statistics bound apart, a GRU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import Array
from torch import Tensor, nn

from parity_tests import tap
from parity_tests.harness.bridge import CONV1D, LINEAR, Rule
from parity_tests.harness.pairing import Twin
from parity_tests.ports.functions import WEIGHTS, Params, dense, zeros
from parity_tests.ports.planting import calls
from parity_tests.ports.port import Fault, Port, normal


class TorchSignal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 4, 4, stride=2, padding=1), nn.BatchNorm1d(4)
        self.act, self.head = nn.Hardtanh(-1, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.norm(self.conv(x))).amax(-1))


def wide_clip(x: Array) -> Array:
    return jnp.clip(x, -1, 2)


def signal(
    weights: Params,
    statistics: Params,
    x: Array,
    padding: Any = ((1, 1),),
    epsilon: float = 1e-5,
    act: Any = wide_clip,
) -> Array:
    conv = partial(jax.lax.conv_general_dilated, dimension_numbers=("NWC", "WIO", "NWC"))
    y = conv(x, weights["conv"]["w"], (2,), padding) + weights["conv"]["b"]
    y = tap("conv", y)
    y = (y - statistics["mean"]) * jax.lax.rsqrt(statistics["var"] + epsilon)
    y = tap("norm", y * weights["norm"]["w"] + weights["norm"]["b"])
    y = tap("act", act(y))
    return tap("head", dense(weights["head"], y.max(1)))


def padded_on_the_right(weights: Params, statistics: Params, x: Array) -> Array:
    return signal(weights, statistics, x, ((0, 2),))


def with_large_epsilon(weights: Params, statistics: Params, x: Array) -> Array:
    return signal(weights, statistics, x, epsilon=1e-3)


def with_default_clip(weights: Params, statistics: Params, x: Array) -> Array:
    return signal(weights, statistics, x, act=jax.nn.hard_tanh)


def signal_port() -> Any:
    statistics = {"mean": jnp.zeros(4), "var": jnp.ones(4)}
    return partial(signal, zeros(conv=(4, 3, 4), norm=(4,), head=(4, 2)), statistics)


SIGNAL = Port(
    "weights and statistics bound apart",
    "function",
    TorchSignal,
    signal_port,
    normal(2, 3, 8),
    (
        Rule("norm.running_{what}", "1.{what}"),
        Rule("conv.weight", "0.conv.w", CONV1D),
        Rule("norm.weight", "0.norm.w"),
        Rule("head.weight", "0.head.w", LINEAR),
        Rule("{layer}.bias", "0.{layer}.b"),
    ),
    {"": Twin("", (0, 2, 1)), "{layer}": Twin("{layer}", (0, 2, 1))},
    (
        Fault("padded on the right", "conv", calls(padded_on_the_right)),
        Fault("epsilon 1e-3 for 1e-5", "norm", calls(with_large_epsilon)),
        Fault("default limits of Hardtanh", "act", calls(with_default_clip)),
    ),
    {"ignore": ("**.num_batches_tracked",)},
)


class TorchDeep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(5, 5) for _ in range(3)), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return self.head(x)


def deep(params: Params, x: Array, f: Any = jax.nn.relu) -> Array:
    @jax.jit
    def step(x: Array, layer: Params) -> tuple[Array, None]:
        return x + f(tap("layer", dense(layer, x))), None

    x, _ = jax.lax.scan(step, x, params["layers"])
    return tap("head", dense(params["head"], x))


def deep_with_relu6(params: Params, x: Array) -> Array:
    return deep(params, x, lambda x: jnp.minimum(jax.nn.relu(x), 1))


def deep_with_other_bias(params: Params, x: Array) -> Array:
    return deep({**params, "head": {"w": params["head"]["w"], "b": -params["head"]["b"]}}, x)


def deep_port() -> Any:
    layers = {"w": jnp.zeros((3, 5, 5)), "b": jnp.zeros((3, 5))}
    return partial(deep, {"layers": layers, **zeros(head=(5, 3))})


DEEP = Port(
    "a tap inside jax.lax.scan and jax.jit",
    "function",
    TorchDeep,
    deep_port,
    normal(2, 5),
    (
        Rule("layers.{i}.weight", "layers.w", LINEAR, over={"i": range(3)}, at=lambda i: (i,)),
        Rule("layers.{i}.bias", "layers.b", over={"i": range(3)}, at=lambda i: (i,)),
        Rule("head.weight", "head.w", LINEAR),
        Rule("head.bias", "head.b"),
    ),
    {"head": "head"},
    (
        Fault("ReLU cut off at 1", "head", calls(deep_with_relu6)),
        Fault("a bias taken off", "head", calls(deep_with_other_bias)),
    ),
)


class TorchGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.gru = nn.Linear(5, 4), nn.GRU(4, 3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(self.encode(x))
        return self.head(y)


def gru_step(params: Params, h: Array, x: Array) -> tuple[Array, Array]:
    of_x, of_h = (jnp.split(dense(params[k], v), 3, -1) for k, v in (("input", x), ("state", h)))
    r, z = (jax.nn.sigmoid(of_x[i] + of_h[i]) for i in (0, 1))
    n = jnp.tanh(of_x[2] + r * of_h[2])
    h = (1 - z) * n + z * h
    return h, h


def update_first(params: Params, h: Array, x: Array) -> tuple[Array, Array]:
    of_x, of_h = (jnp.split(dense(params[k], v), 3, -1) for k, v in (("input", x), ("state", h)))
    z, r = (jax.nn.sigmoid(of_x[i] + of_h[i]) for i in (0, 1))
    n = jnp.tanh(of_x[2] + r * of_h[2])
    h = (1 - z) * n + z * h
    return h, h


def reset_before(params: Params, h: Array, x: Array) -> tuple[Array, Array]:
    """The first paper's: the state is reset before its product."""
    of_x, of_h = (jnp.split(dense(params[k], v), 3, -1) for k, v in (("input", x), ("state", h)))
    r, z = (jax.nn.sigmoid(of_x[i] + of_h[i]) for i in (0, 1))
    n = jnp.tanh(of_x[2] + jnp.split(dense(params["state"], r * h), 3, -1)[2])
    h = (1 - z) * n + z * h
    return h, h


def gru(params: Params, x: Array, step: Callable[..., Any] = gru_step) -> Array:
    x = tap("encode", dense(params["encode"], x))
    first = jnp.zeros((len(x), 3), x.dtype)
    _, y = jax.lax.scan(partial(step, params["gru"]), first, x.swapaxes(0, 1))
    y = tap("gru", y.swapaxes(0, 1))
    return tap("head", dense(params["head"], y))


def gru_update_first(params: Params, x: Array) -> Array:
    return gru(params, x, update_first)


def gru_reset_before(params: Params, x: Array) -> Array:
    return gru(params, x, reset_before)


def gru_params() -> Params:
    return {**zeros(encode=(5, 4), head=(3, 2)), "gru": zeros(input=(4, 9), state=(3, 9))}


GRU_PORT = Port(
    "GRU under lax.scan",
    "function",
    TorchGRU,
    lambda: jax.tree_util.Partial(gru, gru_params()),
    normal(2, 4, 5),
    (
        Rule("gru.weight_ih_l0", "gru.input.w", LINEAR),
        Rule("gru.weight_hh_l0", "gru.state.w", LINEAR),
        Rule("gru.bias_ih_l0", "gru.input.b"),
        Rule("gru.bias_hh_l0", "gru.state.b"),
        *WEIGHTS,
    ),
    # torch gives the last state too, which nobody reads and the port does not tap.
    {"{layer}": "{layer}"},
    (
        Fault("reset and update exchanged", "gru", calls(gru_update_first)),
        Fault("reset before the product", "gru", calls(gru_reset_before)),
    ),
)


PORTS = (SIGNAL, DEEP, GRU_PORT)

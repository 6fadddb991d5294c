"""torch's layers beside their counterparts in NNX, Linen and Equinox, one case a pair."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

from parity_tests.harness.rules_for import Target

F64: Any = jnp.float64
KW: dict[str, Any] = dict(dtype=F64, param_dtype=F64)
EXACT: dict[str, Any] = dict(epsilon=1e-5, **KW)
Array = Any
QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0}


@dataclass(frozen=True)
class Case:
    """`port` makes the port of the reference's first input; `call` runs it, batch and all."""

    name: str
    target: Target
    ref: Callable[[], nn.Module]
    port: Callable[[], Any]
    inputs: tuple[tuple[int, ...], ...]
    call: Callable[..., Array]
    run: Callable[..., Any] = lambda m, *xs: m(*xs)
    options: dict[str, Any] | None = None


def last(x: Array) -> Array:
    return jnp.moveaxis(x, 1, -1)


def first(x: Array) -> Array:
    return jnp.moveaxis(x, -1, 1)


def channels_last(m: Any, x: Array) -> Array:
    return first(m(last(x)))


def each(m: Any, *xs: Array) -> Array:
    """An Equinox layer of one example."""
    return jax.vmap(m)(*xs)


def each_vector(m: Any, x: Array) -> Array:
    return jax.vmap(jax.vmap(m))(x)


def bound(module: linen.Module, *shapes: tuple[int, ...], dtype: Any = F64) -> Any:
    inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return module.bind(zeros(jax.eval_shape(module.init, jax.random.key(0), *inputs)))


def zeros(tree: Any) -> Any:
    """In the place of what was only shaped: a random start costs a program an array."""

    def fill(x: Any) -> Any:
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return np.zeros(x.shape, x.dtype)

    return jax.tree.map(fill, tree)


def empty(case: "Case") -> Any:
    match case.target:
        case "nnx":
            graphdef, state = nnx.split(nnx.eval_shape(case.port))
            return nnx.merge(graphdef, zeros(state))
        case "equinox" if "BatchNorm" not in case.name:
            return zeros(eqx.filter_eval_shape(case.port))
        case _:
            return case.port()


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


KEY = 0


def key() -> Any:
    return jax.random.key(KEY)


# Of torch, what the convolution of `n` axes is called with; odd sizes, other on every axis.
WIDTHS, SIZES = (3, 2, 5), (7, 4, 6)


def convolutions() -> list[Case]:
    cases = []
    for n in (1, 2, 3):
        width, size = WIDTHS[:n], SIZES[:n]
        x = (2, 4, *size)
        ref = getattr(nn, f"Conv{n}d")
        cases += [
            Case(
                f"Conv{n}d", "nnx", lambda r=ref, w=width: r(4, 6, w, stride=2, groups=2),
                lambda w=width, n=n: nnx.Conv(
                    4, 6, w, strides=(2,) * n, feature_group_count=2, padding="VALID",
                    rngs=rngs(), **KW,
                ),
                (x,), channels_last,
            ),
            Case(
                f"Conv{n}d", "equinox", lambda r=ref, w=width: r(4, 6, w, groups=2),
                lambda w=width, n=n: eqx.nn.Conv(n, 4, 6, w, groups=2, key=key()), (x,), each,
            ),
        ]  # fmt: skip
        up = getattr(nn, f"ConvTranspose{n}d")
        y = (2, 4, *SIZES[3 - n :])
        cases += [
            Case(
                f"ConvTranspose{n}d", "nnx", lambda r=up, w=width: r(4, 3, w, stride=2, padding=1),
                lambda w=width, n=n: nnx.ConvTranspose(
                    4, 3, w, strides=(2,) * n, padding=[(k - 2, k - 2) for k in w],
                    rngs=rngs(), **KW,
                ),
                (y,), channels_last,
            ),
            Case(
                f"ConvTranspose{n}d", "equinox",
                lambda r=up, w=width: r(4, 6, w, stride=2, padding=1, groups=2),
                lambda w=width, n=n: eqx.nn.ConvTranspose(
                    n, 4, 6, w, stride=2, padding=1, groups=2, key=key()
                ),
                (y,), each,
            ),
        ]  # fmt: skip
    cases = [case for case in cases if case.target == "nnx" or "2d" in case.name]
    return [
        *cases,
        Case(
            "Conv2d", "linen", lambda: nn.Conv2d(4, 6, (3, 2), bias=False),
            lambda: bound(
                linen.Conv(6, (3, 2), padding="VALID", use_bias=False, **KW), (2, 7, 5, 4)
            ),
            ((2, 4, 7, 5),), channels_last,
        ),
        Case(
            "ConvTranspose2d", "linen", lambda: nn.ConvTranspose2d(4, 3, (3, 2)),
            lambda: bound(
                linen.ConvTranspose(3, (3, 2), padding="VALID", transpose_kernel=True, **KW),
                (2, 7, 5, 4),
            ),
            ((2, 4, 7, 5),), channels_last, options={"transpose_kernel": True},
        ),
    ]  # fmt: skip


def simple() -> list[Case]:
    return [
        Case("Linear", "nnx", lambda: nn.Linear(3, 5), lambda: nnx.Linear(3, 5, rngs=rngs(), **KW),
             ((2, 3),), lambda m, x: m(x)),
        Case("Linear", "linen", lambda: nn.Linear(3, 5, bias=False),
             lambda: bound(linen.Dense(5, use_bias=False, **KW), (2, 3)), ((2, 3),),
             lambda m, x: m(x)),
        Case("Linear", "equinox", lambda: nn.Linear(3, 5), lambda: eqx.nn.Linear(3, 5, key=key()),
             ((2, 3),), each),
        Case("LayerNorm", "nnx", lambda: nn.LayerNorm(5),
             lambda: nnx.LayerNorm(5, rngs=rngs(), use_fast_variance=False, **EXACT), ((2, 5),),
             lambda m, x: m(x)),
        Case("LayerNorm", "linen", lambda: nn.LayerNorm([3, 5]),
             lambda: bound(linen.LayerNorm(reduction_axes=(-2, -1), feature_axes=(-2, -1),
                                           use_fast_variance=False, **EXACT), (2, 3, 5)),
             ((2, 3, 5),), lambda m, x: m(x)),
        Case("LayerNorm", "equinox", lambda: nn.LayerNorm([3, 5], bias=False),
             lambda: eqx.nn.LayerNorm([3, 5], use_bias=False), ((2, 3, 5),), each),
        Case("RMSNorm", "nnx", lambda: nn.RMSNorm(5, eps=1e-5),
             lambda: nnx.RMSNorm(5, rngs=rngs(), **EXACT), ((2, 5),), lambda m, x: m(x)),
        Case("RMSNorm", "linen", lambda: nn.RMSNorm(5, eps=1e-5),
             lambda: bound(linen.RMSNorm(**EXACT), (2, 5)), ((2, 5),), lambda m, x: m(x)),
        Case("RMSNorm", "equinox", lambda: nn.RMSNorm(5, eps=1e-5),
             lambda: eqx.nn.RMSNorm(5, use_bias=False, eps=1e-5), ((2, 5),), each),
        Case("GroupNorm", "nnx", lambda: nn.GroupNorm(2, 6),
             lambda: nnx.GroupNorm(6, 2, rngs=rngs(), use_fast_variance=False, **EXACT),
             ((2, 6, 5),), channels_last),
        Case("GroupNorm", "linen", lambda: nn.GroupNorm(2, 6),
             lambda: bound(linen.GroupNorm(2, use_fast_variance=False, **EXACT), (2, 5, 6)),
             ((2, 6, 5),), channels_last),
        Case("GroupNorm", "equinox", lambda: nn.GroupNorm(2, 6), lambda: eqx.nn.GroupNorm(2, 6),
             ((2, 6, 5),), each),
        Case("InstanceNorm", "nnx", lambda: nn.InstanceNorm1d(6, affine=True),
             lambda: nnx.InstanceNorm(6, rngs=rngs(), use_fast_variance=False, **EXACT),
             ((2, 6, 5),), channels_last),
        Case("InstanceNorm", "linen", lambda: nn.InstanceNorm2d(6, affine=True),
             lambda: bound(linen.InstanceNorm(use_fast_variance=False, **EXACT), (2, 3, 5, 6)),
             ((2, 6, 3, 5),), channels_last),
        Case("InstanceNorm", "equinox", lambda: nn.InstanceNorm1d(6, affine=True),
             lambda: eqx.nn.GroupNorm(6, 6), ((2, 6, 5),), each),
        Case("BatchNorm", "nnx", lambda: nn.BatchNorm1d(6).eval(),
             lambda: nnx.BatchNorm(6, use_running_average=True, rngs=rngs(), **EXACT),
             ((2, 6, 5),), channels_last),
        Case("BatchNorm", "linen", lambda: nn.BatchNorm2d(6, affine=False).eval(),
             lambda: bound(linen.BatchNorm(use_running_average=True, use_scale=False,
                                           use_bias=False, **EXACT), (2, 3, 5, 6)),
             ((2, 6, 3, 5),), channels_last),
        *(Case(f"BatchNorm, {mode}", "equinox", lambda: nn.BatchNorm1d(6).eval(),
               lambda mode=mode: WithState(mode), ((2, 6, 5),), lambda m, x: m(x),
               options={"port": "norm", "statistics": ("state.0", "state.1")})
          for mode in ("ema", "batch")),
        Case("BatchNorm without statistics", "nnx",
             lambda: nn.BatchNorm1d(6, track_running_stats=False),
             lambda: nnx.BatchNorm(6, use_fast_variance=False, rngs=rngs(), **EXACT), ((2, 6, 5),),
             channels_last),
    ]  # fmt: skip


class WithState(eqx.Module):
    """The port of a torch batch norm in evaluation: the layer and its state in one."""

    norm: Any
    state: Any

    def __init__(self, mode: Any) -> None:
        self.norm, self.state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(6, "batch", mode=mode)

    def __call__(self, x: Array) -> Array:
        return jax.vmap(lambda x: self.norm(x, self.state, inference=True)[0], axis_name="batch")(x)


def exact_attention(query: Array, key: Array, value: Array, **_: Any) -> Array:
    """[B T H K]; Flax's own takes its softmax in float32."""
    wei = jnp.einsum("bthk,bshk->bhts", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(wei), value)


def attention(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.MultiheadAttention(6, 2, batch_first=True, **options)


def attend(m: nn.Module, *xs: torch.Tensor) -> torch.Tensor:
    return m(*xs)[0]


def attentions() -> list[Case]:
    same, other = (2, 5, 6), (2, 4, 6)
    return [
        Case("MultiheadAttention", "nnx", attention(),
             lambda: nnx.MultiHeadAttention(2, 6, attention_fn=exact_attention, decode=False,
                                            rngs=rngs(), **KW),
             (same, other, other), lambda m, *xs: m(*xs), attend),
        Case("MultiheadAttention of other keys", "nnx", attention(kdim=3, vdim=3, bias=False),
             lambda: nnx.MultiHeadAttention(2, 6, in_kv_features=3, use_bias=False, decode=False,
                                            attention_fn=exact_attention, rngs=rngs(), **KW),
             (same, (2, 4, 3), (2, 4, 3)), lambda m, *xs: m(*xs), attend),
        Case("MultiheadAttention of other values", "linen", attention(kdim=3, vdim=5),
             lambda: bound(linen.MultiHeadDotProductAttention(2, qkv_features=6, out_features=6,
                                                              **KW), same, (2, 4, 3), (2, 4, 5)),
             (same, (2, 4, 3), (2, 4, 5)), lambda m, *xs: m(*xs), attend),
        Case("MultiheadAttention", "equinox", attention(),
             lambda: eqx.nn.MultiheadAttention(
                 2, 6, key=key(), use_query_bias=True, use_key_bias=True, use_value_bias=True,
                 use_output_bias=True),
             (same, other, other), each, attend),
    ]  # fmt: skip


def scanned(cell: Any, x: Array, backward: bool = False) -> Array:
    """An Equinox cell over [T C]: its hidden states."""
    zeros = jnp.zeros(cell.hidden_size, x.dtype)
    is_lstm = isinstance(cell, eqx.nn.LSTMCell)

    def step(h: Any, x: Array) -> Any:
        h = cell(x, h)
        return h, h[0] if is_lstm else h

    return jax.lax.scan(step, (zeros, zeros) if is_lstm else zeros, x, reverse=backward)[1]


class Cells(eqx.Module):
    """Two layers of two directions."""

    layers: list[dict[str, Any]]

    def __init__(self, cell: Any) -> None:
        self.layers = [{d: cell(n, 4, key=key()) for d in ("forward", "backward")} for n in (3, 8)]

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            ways = [scanned(layer[way], x, way == "backward") for way in ("forward", "backward")]
            x = jnp.concatenate(ways, -1)
        return x


class Layers(nnx.Module):
    def __init__(self, cell: Any) -> None:
        self.layers = nnx.List(
            nnx.Bidirectional(
                nnx.RNN(cell(n, 4, rngs=rngs(), **KW)), nnx.RNN(cell(n, 4, rngs=rngs(), **KW))
            )
            for n in (3, 8)
        )

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer(x)
        return x


class LinenLayers(linen.Module):
    cell: Any

    @linen.compact
    def __call__(self, x: Array) -> Array:
        for i in range(2):
            forth, back = (linen.RNN(self.cell(4, **KW)) for _ in range(2))
            x = linen.Bidirectional(forth, back, name=f"layers_{i}")(x)
        return x


BOTH: dict[str, Any] = dict(num_layers=2, bidirectional=True, batch_first=True)
FLAX = "layers.{layer}.{direction}_rnn.cell"


def recurrent() -> list[Case]:
    def run(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return m(x)[0]

    def call(m: Any, x: Array) -> Array:
        return m(x)

    x = ((2, 3, 3),)
    return [
        Case("GRU without biases", "nnx", lambda: nn.GRU(3, 4, bias=False, **BOTH),
             lambda: Layers(nnx.GRUCell), x, call, run, {"port": FLAX}),
        Case("GRU", "linen", lambda: nn.GRU(3, 4, **BOTH),
             lambda: bound(LinenLayers(linen.GRUCell), *x), x, call, run,
             {"port": "GRUCell_{number}"}),
        Case("GRU without biases", "linen", lambda: nn.GRU(3, 4, bias=False, batch_first=True),
             lambda: bound(linen.RNN(linen.GRUCell(4, **KW)), *x), x, call, run, {"port": "cell"}),
        Case("GRU", "equinox", lambda: nn.GRU(3, 4, **BOTH), lambda: Cells(eqx.nn.GRUCell), x, each,
             run, {"port": "layers.{layer}.{direction}"}),
        Case("GRU without biases", "equinox", lambda: nn.GRU(3, 4, bias=False, batch_first=True),
             lambda: eqx.nn.GRUCell(3, 4, use_bias=False, key=key()), x,
             lambda m, x: jax.vmap(lambda x: scanned(m, x))(x), run),
        *(Case(f"LSTM, {cell.__name__}", "nnx", lambda: nn.LSTM(3, 4, **BOTH),
               lambda cell=cell: Layers(cell), x, call, run, {"port": FLAX, "cell": cell.__name__})
          for cell in (nnx.LSTMCell, nnx.OptimizedLSTMCell)),
        Case("LSTM without biases", "nnx", lambda: nn.LSTM(3, 4, bias=False, batch_first=True),
             lambda: nnx.RNN(nnx.LSTMCell(3, 4, rngs=rngs(), **KW)), x, call, run,
             {"port": "cell"}),
        Case("LSTM", "linen", lambda: nn.LSTM(3, 4, **BOTH),
             lambda: bound(LinenLayers(linen.OptimizedLSTMCell), *x), x, call, run,
             {"port": "OptimizedLSTMCell_{number}"}),
        Case("LSTM", "equinox", lambda: nn.LSTM(3, 4, **BOTH), lambda: Cells(eqx.nn.LSTMCell), x,
             each, run, {"port": "layers.{layer}.{direction}"}),
    ]  # fmt: skip


CASES = [*simple(), *convolutions(), *attentions(), *recurrent()]

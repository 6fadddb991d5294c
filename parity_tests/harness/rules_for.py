"""The rules of one torch layer, to its counterpart in NNX, Linen or Equinox."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from torch import nn

from parity_tests.harness.attention_rules import attention_rules
from parity_tests.harness.layouts import (
    CONV1D,
    CONV2D,
    CONV3D,
    CONV_TRANSPOSE1D,
    CONV_TRANSPOSE2D,
    CONV_TRANSPOSE3D,
    LINEAR,
    flip_groups,
    trailing_ones,
)
from parity_tests.harness.maps import Axes, Map, constant
from parity_tests.harness.recurrent_rules import recurrent_rules
from parity_tests.harness.rules import Rule
from parity_tests.harness.target import NoCounterpart, Target, under

__all__ = ["NoCounterpart", "Target", "rules_for"]

_CONV = {1: CONV1D, 2: CONV2D, 3: CONV3D}
_CONV_TRANSPOSE = {1: CONV_TRANSPOSE1D, 2: CONV_TRANSPOSE2D, 3: CONV_TRANSPOSE3D}


def rules_for(
    module: nn.Module,
    target: Target,
    reference: str = "",
    port: str = "",
    *,
    cell: Literal["LSTMCell", "OptimizedLSTMCell"] = "LSTMCell",
    transpose_kernel: bool = False,
    statistics: tuple[str, str] | None = None,
) -> list[Rule]:
    """Rules from the layer called `reference` to the one called `port`; both may hold places.

    Linear, Conv1d–3d, ConvTranspose1d–3d, Embedding, LayerNorm, RMSNorm, GroupNorm, BatchNorm1d–3d,
    InstanceNorm1d–3d, MultiheadAttention, GRU, LSTM. What is no weight (padding, epsilon, momentum)
    is the port's to set. A recurrent layer's port is one cell a layer and direction: in `port`,
    "{layer}" stands for 0, 1, …, "{direction}" for forward and backward, "{number}" for the count
    of all cells, as Linen names them; `cell` says which of NNX's. `transpose_kernel` is that
    argument of Flax's ConvTranspose. `statistics`, for Equinox's BatchNorm, names the two entries
    of the eqx.nn.State: ("state.0", "state.1").

    NoCounterpart, a ValueError, says why the target cannot hold the weights; TypeError for a layer
    that is not listed.
    """
    if target not in ("nnx", "linen", "equinox"):
        raise ValueError(f'target is "nnx", "linen" or "equinox", not "{target}"')
    if isinstance(module, nn.GRU | nn.LSTM):
        return recurrent_rules(module, target, reference, port, cell)
    if isinstance(module, nn.MultiheadAttention):
        return attention_rules(module, target, reference, port)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _batch_norm(module, target, reference, port, statistics)
    for kind, function in _SIMPLE.items():
        if isinstance(module, kind):
            weight, maps = function(module, target, transpose_kernel)
            names = (("weight", weight), ("bias", "bias"))
            return [
                Rule(under(reference, ours), under(port, theirs), maps.get(ours))
                for ours, theirs in names
                if getattr(module, ours, None) is not None
            ]
    raise TypeError(
        f"rules_for knows no {type(module).__name__}: it takes one layer of torch.nn at a time, "
        "of which a model's rules are put together; draft_rules(ref, port) drafts those of a model"
    )


Simple = tuple[str, dict[str, Map | Axes]]  # the port's name of the weight; maps by torch's name


def _linear(module: nn.Linear, target: Target, _: bool) -> Simple:
    return ("weight", {}) if target == "equinox" else ("kernel", {"weight": LINEAR})


def _conv(module: Any, target: Target, _: bool) -> Simple:
    n = len(module.kernel_size)
    if target == "equinox":
        return "weight", {"bias": trailing_ones(n)}
    return "kernel", {"weight": _CONV[n]}


def _conv_transpose(module: Any, target: Target, transpose_kernel: bool) -> Simple:
    n = len(module.kernel_size)
    if target == "equinox":
        return "weight", {"weight": flip_groups(module.groups), "bias": trailing_ones(n)}
    if module.groups > 1:
        raise NoCounterpart(
            f"Flax's ConvTranspose has no groups, and this {type(module).__name__} has "
            f"{module.groups}: use one of them a group, or jax.lax.conv_general_dilated"
        )
    return "kernel", {"weight": _CONV[n] if transpose_kernel else _CONV_TRANSPOSE[n]}


def _embedding(module: nn.Embedding, target: Target, _: bool) -> Simple:
    if module.max_norm is not None:
        raise NoCounterpart(
            "an Embedding with max_norm changes its weights when it is called, which no JAX layer "
            "does: shorten the rows yourself, and leave max_norm out"
        )
    return "weight" if target == "equinox" else "embedding", {}


def _norm(module: Any, target: Target, _: bool) -> Simple:
    shape = getattr(module, "normalized_shape", ())
    if target == "nnx" and len(shape) > 1:
        raise NoCounterpart(
            f"{type(module).__name__} over {len(shape)} axes has weights of shape {tuple(shape)}, "
            "and NNX's are one axis: flatten these axes in the port, and the weights by "
            "`to_port=lambda w: w.reshape(-1)` with `to_reference`"
        )
    if getattr(module, "track_running_stats", False):
        raise NoCounterpart(
            "JAX's instance norms keep no running statistics: build the torch layer with "
            "track_running_stats=False, or compute with its statistics in a batch norm"
        )
    return "weight" if target == "equinox" else "scale", {}


_SIMPLE: dict[Any, Callable[[Any, Target, bool], Simple]] = {
    nn.Linear: _linear,
    nn.modules.conv._ConvTransposeNd: _conv_transpose,
    nn.modules.conv._ConvNd: _conv,
    nn.Embedding: _embedding,
    nn.modules.instancenorm._InstanceNorm: _norm,
    nn.LayerNorm: _norm,
    nn.GroupNorm: _norm,
    nn.RMSNorm: _norm,
}


def _batch_norm(
    module: Any, target: Target, reference: str, port: str, statistics: tuple[str, str] | None
) -> list[Rule]:
    of_jax = {"weight": "weight" if target == "equinox" else "scale", "bias": "bias"}
    rules = [
        Rule(under(reference, ours), under(port, theirs))
        for ours, theirs in of_jax.items()
        if getattr(module, ours) is not None
    ]
    if target == "equinox":
        if statistics is None:
            raise NoCounterpart(
                "eqx.nn.BatchNorm keeps its statistics in an eqx.nn.State beside the model: hold "
                "both in one module, and name the state's two entries of this layer, "
                'statistics=("state.0", "state.1")'
            )
        started, moments = statistics
        rules.append(Rule((), started, constant(0)))  # not the first call; no correction
        mean, var = f"{moments}.0", f"{moments}.1"
    else:
        mean, var = under(port, "mean"), under(port, "var")
    if not module.track_running_stats:  # the port has them all the same, and uses them never
        n = module.num_features
        return [*rules, Rule((), mean, constant(np.zeros(n))), Rule((), var, constant(np.ones(n)))]
    return [
        *rules,
        Rule(under(reference, "running_mean"), mean),
        Rule(under(reference, "running_var"), var),
        Rule(under(reference, "num_batches_tracked"), ()),
    ]

"""Refusing models that drop at random: two such runs are never the same."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from flax import nnx

from parity_tests.harness.kinds import is_equinox, kind_of
from parity_tests.harness.modes import LayerMode
from parity_tests.harness.record import Record
from parity_tests.harness.taps import layers
from parity_tests.harness.trees import is_float


def refuse_dropout(ref: torch.nn.Module, port: Any) -> None:
    """ValueError that names the layers that would drop."""
    active = [f"{name} of the reference" for name in _of_torch(ref)]
    active += [f"{name} of the port" for name in _of_port(port)]
    if active:
        raise ValueError(
            f"dropout is active in {', '.join(active[:8])}"
            + (f" and {len(active) - 8} more" if len(active) > 8 else "")
            + ": call model.eval() on both sides, or make its rate 0"
        )


def refuse_dropping(layers: Mapping[str, LayerMode]) -> None:
    """ValueError that names the port's layers that dropped when they were called."""
    dropping = [f"{name} of the port" for name, mode in layers.items() if mode.drops]
    if dropping:
        raise ValueError(f"dropout is active in {', '.join(dropping)}: make its rate 0")


def refuse_other_numbers(before: torch.nn.Module, first: Record, second: Record) -> None:
    """ValueError where a reference draws random numbers that its results depend on.

    Two runs are not the same then, as of `torch.nn.functional.dropout`, which is no layer, unless
    it holds a torch.Generator of its own, which a copy has in the same state.
    """
    away = "call model.eval() first, or make what is drawn an input"
    for one, other in zip(first.calls, second.calls, strict=False):
        pairs = zip(one.outputs, other.outputs, strict=False)
        if any(not np.array_equal(x, y, equal_nan=is_float(x)) for x, y in pairs):
            raise ValueError(f"the reference draws random numbers, first in {one.label}: {away}")
    states = [_generators(model) for model in (before, first.model)]
    drawn = [name for name, state in states[0].items() if not torch.equal(state, states[1][name])]
    if drawn:
        raise ValueError(
            f"the reference draws random numbers, from the torch.Generator {', '.join(drawn)}: "
            f"{away}"
        )


def drawn_by(before: Any, after: Any) -> list[str]:
    """Random streams of an NNX model from which a run of it has drawn."""
    if kind_of(before) != "nnx":
        return []
    counts = [_counts(model) for model in (before, after)]
    return sorted(name for name, count in counts[1].items() if count != counts[0].get(name))


def refuse_drawn(before: Any, after: Any, remedy: str = "call model.eval() first") -> None:
    """ValueError where a run of an NNX model has drawn from its random streams."""
    drawn = drawn_by(before, after)
    if drawn:
        raise ValueError(f"the port draws random numbers (from {', '.join(drawn)}): {remedy}")


def _of_torch(model: torch.nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        kind = type(module).__name__
        recurrent = isinstance(module, torch.nn.RNNBase) and module.num_layers > 1
        rate: Any = 0.0
        if "Drop" in kind:
            rate = getattr(module, "p", getattr(module, "drop_prob", 0.0)) or 0.0
        elif recurrent or isinstance(module, torch.nn.MultiheadAttention):
            rate = module.dropout
        if module.training and rate > 0:
            yield name or kind


def _of_port(model: Any) -> Iterator[str]:
    for name, layer in layers(model).items():
        if not is_equinox(layer) or type(layer).__name__ != "Dropout":
            continue
        if layer.p > 0 and not layer.inference:
            yield name or "the model"


def _counts(model: Any) -> dict[str, int]:
    state = nnx.to_flat_state(nnx.state(model, nnx.RngCount))
    return {".".join(map(str, path)): int(leaf[...].sum()) for path, leaf in state}


def _generators(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state of each, by the name of the attribute."""
    return {
        f"{name}.{attribute}".lstrip("."): value.get_state()
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, torch.Generator)
    }

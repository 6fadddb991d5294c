"""What a comparison cannot show with these inputs and weights, however right its verdict is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import nn

from parity_tests.harness.calls import Call

WINDOWS: dict[int, tuple[type[nn.Module], ...]] = {  # by the number of their axes
    1: (nn.Conv1d, nn.MaxPool1d, nn.AvgPool1d),
    2: (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d),
    3: (nn.Conv3d, nn.MaxPool3d, nn.AvgPool3d),
}


def unseen(reference: nn.Module, inputs: Any, calls: Iterable[Call]) -> tuple[str, ...]:
    """A sentence for each. Whether all that is in the models is reached by any input is not known.

    Named are weights that are one number throughout, inputs that are, and strided windows at sizes
    at which torch's padding and JAX's SAME come to the same.
    """
    return (*_constant_weights(reference), *_constant_inputs(inputs), *_sizes(calls))


def _constant_weights(reference: nn.Module) -> Iterator[str]:
    by_value: dict[float, list[str]] = {}
    for name, weight in reference.named_parameters():
        values = weight.detach()
        if values.numel() > 1 and bool((values == values.flatten()[0]).all()):
            by_value.setdefault(float(values.flatten()[0]), []).append(name)
    for value, names in by_value.items():
        several = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield (
            f"{', '.join(names[:3])}{several}: {value:g} throughout, so that a port without it may "
            "agree; give random values"
        )


def _constant_inputs(inputs: Any) -> Iterator[str]:
    if isinstance(inputs, Mapping):
        named = {repr(name): value for name, value in inputs.items()}
    else:
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        named = {str(i): value for i, value in enumerate(given)}
    for name, value in named.items():
        if isinstance(value, np.ndarray) and value.size > 1 and (value == value.flat[0]).all():
            yield (
                f"input {name}: {value.flat[0]} throughout, so that a port that leaves it out may "
                "agree"
            )


def _sizes(calls: Iterable[Call]) -> Iterator[str]:
    """Of convolutions and pools with strides, by the sizes that come to them."""
    by_layer: dict[str, list[Call]] = {}
    for call in calls:
        if call.args and isinstance(call.layer, sum(WINDOWS.values(), ())):
            by_layer.setdefault(call.name, []).append(call)
    for name, of_layer in by_layer.items():
        if getattr(of_layer[0].layer, "ceil_mode", False):  # other windows at the end
            continue
        windows = _windows(of_layer[0].layer)
        sizes = [call.args[0].shape[-len(windows) :] for call in of_layer]
        axes = list(zip(windows, zip(*sizes, strict=True), strict=True))
        if not all(_alike(size, *window) for window, given in axes for size in given):
            continue
        others = [
            size
            for window, given in axes
            for size in range(given[0] + 1, given[0] + 1 + window[1])
            if not _alike(size, *window)
        ]
        if others:
            at = " x ".join(map(str, sizes[0]))
            yield (
                f"{name or 'the model'}: at size {at} torch's padding and JAX's SAME are one; at "
                f"size {others[0]} they are not"
            )


def _windows(module: Any) -> list[tuple[int, int, int]]:
    """Of each spatial axis: how far a window reaches, its stride, and the padding before."""
    n = next(n for n, kinds in WINDOWS.items() if isinstance(module, kinds))

    def each(value: Any) -> tuple[int, ...]:
        return tuple(value) if isinstance(value, tuple | list) else (value,) * n

    dilation = each(getattr(module, "dilation", 1))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, each(module.kernel_size), strict=True)]
    padding = module.padding
    before = [0] * n if isinstance(padding, str) else each(padding)
    return list(zip(reach, each(module.stride), before, strict=True))


def _alike(size: int, reach: int, stride: int, before: int) -> bool:
    """Whether JAX's SAME takes the windows that torch takes with so much padding on both sides."""
    count = math.ceil(size / stride)
    padding = max((count - 1) * stride + reach - size, 0)
    return padding // 2 == before and (size + 2 * before - reach) // stride + 1 == count

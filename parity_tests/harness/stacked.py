"""Gradients of weights that the port holds stacked, of one layer as lax.scan or vmap takes it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity_tests.harness.tensors import to_numpy


def in_stack(
    gradients: Mapping[str, Any], values: Mapping[str, Any], port: Mapping[str, Any], count: int
) -> dict[str, Any] | None:
    """Of one call of a layer, in the shapes of the port's arrays: zero but for the layer's row.

    `values` are the arrays that the layer had; the row is the one that holds them. If several do,
    it is that of the call's own number, `count`. None if no row does.
    """
    sliced = [n for n, g in gradients.items() if np.shape(g) != np.shape(port.get(n, g))]
    rows: set[int] | None = None
    for name in sliced:
        mine, stack = to_numpy(values[name]), to_numpy(port[name])
        if mine.shape != stack.shape[1:]:
            return None
        found = {i for i, row in enumerate(stack) if np.array_equal(row, mine, equal_nan=True)}
        rows = found if rows is None else rows & found
    if not rows:
        return dict(gradients) if rows is None else None
    if count not in rows and len(rows) > 1:
        return None
    row = count if count in rows else rows.pop()
    whole = dict(gradients)
    for name in sliced:
        whole[name] = np.zeros(np.shape(port[name]), gradients[name].dtype)
        whole[name][row] = gradients[name]
    return whole

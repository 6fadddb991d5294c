"""One-hot inputs: what a linear layer's matrix is, seen from outside.

A square matrix loads as well with its transpose forgotten; unit vectors tell the two apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import numpy as np
import torch
from numpy.typing import NDArray

from parity_tests.harness.compare import rms
from parity_tests.harness.kinds import kind_of
from parity_tests.harness.tensors import as_tensor

SAME = 1e-5  # relative rms: far above float32 rounding, far below any other matrix
Layer = Callable[[NDArray[Any]], Any]


@dataclass(frozen=True)
class ProbeReport:
    ok: bool
    finding: str  # "the same matrix and bias", or how the port's differs

    def __str__(self) -> str:
        return self.finding


def probe(ref_layer: Layer, port_layer: Layer, in_features: int) -> ProbeReport:
    """Feeds 0 and every unit vector, [in_features + 1, in_features] in float32, through both.

    A layer is a torch, NNX, bound Linen or Equinox module, or a function: of that NumPy array, to
    [in_features + 1, out_features] of any framework. An Equinox module is given one row at a time,
    as its own layers are. A layer that is not affine is judged by its values at these points alone.
    """
    points = np.concatenate([np.zeros((1, in_features)), np.eye(in_features)]).astype(np.float32)
    ref, port = (as_tensor(_called(x, points)).values for x in (ref_layer, port_layer))
    if ref.shape != port.shape:
        return ProbeReport(False, f"the reference gives {ref.shape}, the port {port.shape}")
    matrix, other = ref[1:] - ref[0], port[1:] - port[0]
    if not _same(matrix, other):
        return ProbeReport(False, _how_it_differs(matrix, other))
    if not _same(ref[0], port[0]) and rms(ref[0] - port[0]) > SAME * rms(matrix):
        return ProbeReport(False, "the bias differs; the matrix is the same")
    return ProbeReport(True, "the same matrix and bias")


def _called(layer: Layer, points: NDArray[Any]) -> Any:
    match kind_of(layer):
        case "torch":
            parameters = list(cast(torch.nn.Module, layer).parameters())
            like = parameters[0] if parameters else torch.zeros(())
            return layer(cast(Any, torch.from_numpy(points).to(like)))
        case "equinox":
            return jax.vmap(layer)(points)
        case _:
            return layer(points)


def _how_it_differs(matrix: NDArray[Any], other: NDArray[Any]) -> str:
    if matrix.shape[0] == matrix.shape[1] and _same(matrix.T, other):
        return "a transpose is missing: the port's matrix is the reference's, transposed"
    for axis, what in ((0, "inputs"), (1, "outputs")):
        order = _permutation(np.moveaxis(matrix, axis, 0), np.moveaxis(other, axis, 0))
        if order is not None:
            return f"the {what} are permuted: the port's are the reference's {order}"
    return f"another matrix: rms of the difference {rms(other - matrix) / rms(matrix):.1e} relative"


def _permutation(rows: NDArray[Any], others: NDArray[Any]) -> list[int] | None:
    """For each of `others` the row that it is; None unless each row is used once."""
    order = [int(np.argmin(np.abs(rows - other).sum(axis=1))) for other in others]
    if sorted(order) == list(range(len(rows))) and _same(rows[order], others):
        return order
    return None


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return rms(a - b) <= SAME * rms(a)

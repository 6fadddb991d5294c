"""The table of operations: forward and backward of every way to compute each of them."""

from __future__ import annotations

from collections.abc import Callable

import jax

from benchmarks.device import elementwise, optimizer_update, vocabulary
from benchmarks.device.record import Record
from benchmarks.device.sizes import Sizes

OPERATIONS: list[Callable[[Record, Sizes], None]] = [
    vocabulary.losses,
    vocabulary.embedding_gradients,
    elementwise.norms,
    elementwise.activations,
    elementwise.dropouts,
    optimizer_update.updates,
]


def measure(record: Record, sizes: Sizes) -> None:
    record.device = jax.devices()[0].device_kind
    for operation in OPERATIONS:
        try:
            operation(record, sizes)
        except Exception as error:  # one that cannot even be set up costs the others nothing
            record.failed(operation.__name__, error)

"""What a name of a state dict stands for: a part of a parameter, or a buffer that follows from it.

Beside the entries, those of the layers that all layouts have.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import EllipsisType

import numpy as np
from flax import nnx
from numpy.typing import NDArray

Index = tuple[slice | EllipsisType, ...]
WHOLE: Index = (...,)
# Scores below it have the weight 0 in every precision: exp(-1000) is less than any number above 0.
NO_WEIGHT = -1e3


@dataclass(frozen=True)
class Entry:
    """One name of a state dict: `param[index]`, transposed or not."""

    name: str
    param: nnx.Param
    index: Index = WHOLE
    transposed: bool = False
    alias: bool = False  # says again what another entry says; must agree with it
    optional: bool = False  # may be missing from a state dict

    @property
    def shape(self) -> tuple[int, ...]:
        # A broadcast zero has the shape of the parameter without its memory.
        shape = np.broadcast_to(np.zeros(()), self.param.shape)[self.index].shape
        return shape[::-1] if self.transposed else shape


@dataclass(frozen=True)
class CausalMask:
    """A buffer that the other side registers beside its parameters; it follows from the shape."""

    name: str
    block_size: int | None  # None: a lone head here knows no block size, any will do
    written: bool  # part of what `to_state_dict` gives
    n_axes: int = 2  # the lecture's [T T], GPT-2's [1 1 T T]

    def value(self) -> NDArray[np.float32] | None:
        """Ones and zeros, as the lecture's `tril`; None when it is not to be written."""
        if self.block_size is None or not self.written:
            return None
        shape = (1,) * (self.n_axes - 2) + (self.block_size,) * 2
        return np.tril(np.ones(shape, np.float32))

    def fault(self, value: NDArray) -> str | None:
        """What a given buffer is not, of any number of axes."""
        size = value.shape[-1] if value.ndim else 0
        same = value.size == size * size and self.block_size in (None, size)
        if same and np.array_equal(value.reshape(size, size), np.tri(size)):
            return None
        return f"{self.name} {value.shape} is not the causal mask that the model uses"


@dataclass(frozen=True)
class MaskedScore:
    """A number that older files of GPT-2 keep: what is put where nothing may be seen."""

    name: str

    def value(self) -> None:
        """Nothing here and nothing today reads it."""

    def fault(self, value: NDArray) -> str | None:
        """What a given buffer is not."""
        if value.size == 1 and value.item() <= NO_WEIGHT:
            return None
        return f"{self.name} must be one number of {NO_WEIGHT:,.0f} or below, which masks"


Buffer = CausalMask | MaskedScore
Entries = Iterator[Entry | Buffer]


def table(name: str, embedding: nnx.Embed) -> Entry:
    return Entry(f"{name}.weight", embedding.embedding)


def linear(name: str, layer: nnx.Linear) -> Iterator[Entry]:
    """torch's Linear holds [out, in]."""
    yield Entry(f"{name}.weight", layer.kernel, transposed=True)
    if layer.bias is not None:
        yield Entry(f"{name}.bias", layer.bias)


def norm(name: str, layer: nnx.LayerNorm) -> Entries:
    for part, param in (("weight", layer.scale), ("bias", layer.bias)):
        if param is not None:
            yield Entry(f"{name}.{part}", param)


def under(prefix: str, entries: Iterable[Entry | Buffer]) -> Entries:
    for entry in entries:
        yield replace(entry, name=f"{prefix}.{entry.name}")

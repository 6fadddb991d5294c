"""Keys and values of the positions so far, kept so that a next token costs one position."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer


class KeyValues(NamedTuple):
    """What one layer's attention looks back on; slot s of axis S holds position s."""

    keys: Float[Array, "... S K"]
    values: Float[Array, "... S K"]

    def with_room(self, length: int) -> "KeyValues":
        """The same slots and empty ones after them, `length` in all."""
        axes = [(0, 0)] * self.keys.ndim
        axes[-2] = (0, length - self.keys.shape[-2])
        return KeyValues(jnp.pad(self.keys, axes), jnp.pad(self.values, axes))

    def write(self, new: "KeyValues", position: Int[Array, ""]) -> "KeyValues":
        """With the one slot of `new` in the place of slot `position`."""
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, slot, position, axis=-2)
            for old, slot in zip(self, new, strict=True)
        )
        return KeyValues(keys, values)

    def seen(self, position: Int[Array, ""]) -> Bool[Array, "1 S"]:
        """The mask of a query at `position`: itself and before."""
        return (jnp.arange(self.keys.shape[-2]) <= position)[None]


Cache = tuple[KeyValues, ...]  # one entry a layer


@runtime_checkable
class CachedModel(Protocol):
    """A language model that can go on from the positions it has seen."""

    block_size: int

    def prefill(self, idx: Integer[Array, "B T"]) -> Cache: ...

    def step(
        self, idx: Integer[Array, "B 1"], cache: Cache, position: Int[Array, ""]
    ) -> tuple[Float[Array, "B 1 V"], Cache]: ...

"""Where a step's batches come from.

Random windows are a pure function of (key, step): `window_starts`, wherever the tokens are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jax_attn.domains import LARGEST_INT32, SIZE
from jax_attn.errors import InputError


@runtime_checkable
class Batches(Protocol):
    """Where a chunk's batches come from: inputs and targets [B T] of a step, inside jit."""

    def batch(self, step: Int[Array, ""]) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]: ...


def window_starts(
    key: Array, step: Int[Array, ""], batch_size: int, n_starts: int
) -> Int[Array, "B 1"]:
    """Where the windows of a step begin: each of `n_starts` places, up to 2^31, equally likely."""
    return jax.random.randint(
        jax.random.fold_in(key, step), (batch_size, 1), 0, n_starts, dtype=jnp.int32
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RandomBatches:
    """Windows at random places of a token array on the device, from a stream of (key, step)."""

    tokens: Any  # any integers [N]
    key: Any  # a key of jax.random
    batch_size: int = field(metadata={"static": True})
    block_size: int = field(metadata={"static": True})

    def batch(self, step: Int[Array, ""]) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
        """Every start from 0 to N - T - 1 is equally likely. InputError where there is none."""
        n_starts = require_windows(self.tokens.shape[0], self.batch_size, self.block_size)
        if self.tokens.shape[0] > LARGEST_INT32:
            raise InputError(
                f"{self.tokens.shape[0]:,} tokens are too many for a device, which counts places "
                "in int32: give HostBatches of them"
            )
        starts = window_starts(self.key, step, self.batch_size, n_starts)
        places = starts + jnp.arange(self.block_size + 1, dtype=jnp.int32)
        windows = self.tokens[places].astype(jnp.int32)
        return windows[:, :-1], windows[:, 1:]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GivenBatches:
    """Batches chosen by the caller: row i is the batch of step `first_step + i`."""

    inputs: Any  # any integers [N B T]
    targets: Any  # any integers [N B T]
    first_step: Any  # int32 []

    def with_room(self, n_steps: int) -> GivenBatches:
        """The same, filled up to [n_steps B T], as a program of so many takes them."""
        if len(self.inputs) == n_steps:
            return self
        room = [(0, n_steps - len(self.inputs)), (0, 0), (0, 0)]
        inputs, targets = (jnp.pad(x, room) for x in (self.inputs, self.targets))
        return GivenBatches(inputs, targets, self.first_step)

    def batch(self, step: Int[Array, ""]) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
        row = step - self.first_step
        return self.inputs[row].astype(jnp.int32), self.targets[row].astype(jnp.int32)


def given_shapes(n_steps: int, batch_size: int, block_size: int, dtype: Any) -> GivenBatches:
    """Of `GivenBatches` with so many steps."""
    ids = jax.ShapeDtypeStruct((n_steps, batch_size, block_size), dtype)
    return GivenBatches(ids, ids, jax.ShapeDtypeStruct((), jnp.int32))


def require_windows(n_tokens: int, batch_size: int, block_size: int) -> int:
    """The number of places where a window and its target may begin; InputError for none."""
    SIZE.check("batch_size", batch_size)
    if n_tokens <= SIZE.check("block_size", block_size):
        raise InputError(f"{n_tokens} tokens are too few for block_size {block_size}")
    return n_tokens - block_size

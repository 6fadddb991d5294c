"""The windows of `RandomBatches`, gathered on the host from tokens that no device has room for."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from numpy.typing import NDArray

from jax_attn.data.mapped import Windows, is_mapped
from jax_attn.domains import LARGEST_INT32
from jax_attn.training.batches import (
    GivenBatches,
    RandomBatches,
    given_shapes,
    require_windows,
    window_starts,
)


class HostBatches:
    """Windows at random places of tokens on the host, from a stream of (key, step).

    The same as those of `RandomBatches` up to 2^31 places. From more of them, numbers of 64 bits
    are drawn, and drawn again where their remainder would be likelier for some places.
    """

    def __init__(self, tokens: Any, key: Array, batch_size: int, block_size: int) -> None:
        """`tokens`: integers [N] with `len` and indices, as a np.memmap. InputError for too few."""
        self.tokens = tokens
        self.batch_size, self.block_size = batch_size, block_size
        self._key = key
        self._windows = Windows(tokens)
        self._n_starts = require_windows(len(tokens), batch_size, block_size)
        self._thread = ThreadPoolExecutor(1)
        self._ahead: tuple[tuple[int, int, int], Future[GivenBatches]] | None = None

    def given(self, first_step: int, n_steps: int, room: int | None = None) -> GivenBatches:
        """The batches of `n_steps` steps from `first_step` on, with room for `room`."""
        asked = first_step, n_steps, room or n_steps
        if self._ahead is None or self._ahead[0] != asked:
            self.prepare(*asked)
        assert self._ahead is not None
        batches = self._ahead[1].result()
        self._ahead = None
        return batches

    def prepare(self, first_step: int, n_steps: int, room: int) -> None:
        """Begins to gather in the background what `given` will be asked for next.

        Drawing their places is left to the device before it gets anything else to do.
        """
        steps = np.arange(first_step, first_step + room, dtype=np.int32)
        drawn = _drawn(self._key, steps, np.int32(0), self.batch_size, self._n_starts)
        asked = first_step, n_steps, room
        self._ahead = asked, self._thread.submit(self._gather, asked, drawn)

    def shapes(self, room: int) -> GivenBatches:
        """Of what `given` gives."""
        return given_shapes(room, self.batch_size, self.block_size, self.tokens.dtype)

    def batch(self, step: Int[Array, ""]) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
        """Inputs and targets of a step; not inside a compiled program, which takes `given`."""
        given = self.given(int(step), 1)
        return jnp.asarray(given.inputs[0], jnp.int32), jnp.asarray(given.targets[0], jnp.int32)

    def starts(self, first_step: int, drawn: Any) -> NDArray[np.int64]:
        """[N B] Where the windows of the steps from `first_step` on begin."""
        if self._n_starts <= LARGEST_INT32:
            return np.asarray(drawn)[..., 0].astype(np.int64)
        numbers = _wide(drawn)
        # The largest multiple of the number of places; from there on remainders are not alike.
        most = 2**64 // self._n_starts * self._n_starts
        again = 0
        while (beyond := _at_least(numbers, most)).any():
            again += 1
            steps = np.arange(first_step, first_step + len(numbers), dtype=np.int32)
            drawn = _drawn(self._key, steps, np.int32(again), self.batch_size, self._n_starts)
            numbers = np.where(beyond, _wide(drawn), numbers)
        return (numbers % np.uint64(self._n_starts)).astype(np.int64)

    def _gather(self, asked: tuple[int, int, int], drawn: Any) -> GivenBatches:
        first_step, n_steps, room = asked
        starts = self.starts(first_step, drawn)[:n_steps].reshape(-1)
        shape = room, self.batch_size, self.block_size + 1
        filled = np.zeros(shape, self.tokens.dtype)
        filled[:n_steps] = self._windows.at(starts, shape[-1]).reshape(n_steps, *shape[1:])
        return GivenBatches(filled[..., :-1], filled[..., 1:], np.int32(first_step))


def random_batches(
    tokens: NDArray[np.integer], key: Array, batch_size: int, block_size: int
) -> RandomBatches | HostBatches:
    """From the device or, if the tokens are a map of a file, from there."""
    if is_mapped(tokens):
        return HostBatches(tokens, key, batch_size, block_size)
    return RandomBatches(jnp.asarray(tokens), key, batch_size, block_size)


@partial(jax.jit, static_argnames=("batch_size", "n_starts"))
def _drawn(key: Array, steps: Array, again: Array, batch_size: int, n_starts: int) -> Array:
    """[N B 1] The places themselves or, where they are more than 2^31, [N B 2] halves of numbers.

    These are the high and the low 32 bits, drawn for the `again`th time.
    """

    def of_step(step: Array) -> Array:
        if n_starts <= LARGEST_INT32:
            return window_starts(key, step, batch_size, n_starts)
        stream = jax.random.fold_in(jax.random.fold_in(key, step), again)
        return jax.random.bits(stream, (batch_size, 2), jnp.uint32)

    return jax.vmap(of_step)(steps)


def _wide(halves: Any) -> NDArray[np.uint64]:
    high, low = np.moveaxis(np.asarray(halves).astype(np.uint64), -1, 0)
    return high << np.uint64(32) | low


def _at_least(numbers: NDArray[np.uint64], bound: int) -> NDArray[np.bool_]:
    return numbers >= np.uint64(bound) if bound < 2**64 else np.zeros(numbers.shape, np.bool_)

"""Dropout with two draws from every random word."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jax_attn.domains import DROPOUT_RATE

HALF_WORDS = 1 << 16  # values of half a random word: probabilities are multiples of 1 / 65,536


class Dropout(nnx.Dropout):
    """flax's, with `keep_mask`: half as many random words, most of what dropout costs."""

    def __call__(
        self, inputs: Float[Array, "*shape"], *, deterministic=None, rngs=None
    ) -> Float[Array, "*shape"]:
        deterministic = self.deterministic if deterministic is None else deterministic
        if self.rate == 0 or deterministic:
            return inputs
        stream = self.rngs if rngs is None else rngs
        if isinstance(stream, nnx.Rngs):
            stream = stream[self.rng_collection]
        key = stream() if isinstance(stream, nnx.RngStream) else stream
        assert key is not None
        kept = keep_mask(key, self.rate, inputs.shape)
        return jnp.where(kept, inputs / (1 - self.rate), 0)


def keep_mask(key: PRNGKeyArray, rate: float, shape: tuple[int, ...]) -> Bool[Array, "*shape"]:
    """True with probability 1 - rate, to the nearest multiple of 2^-16."""
    *rows, length = shape
    words = jax.random.bits(key, (*rows, -(-length // 2)), jnp.uint32)
    halves = jnp.concatenate([words % HALF_WORDS, words // HALF_WORDS], axis=-1)
    return halves[..., :length] < round((1 - rate) * HALF_WORDS)


def dropout(rate: float, rngs: nnx.Rngs) -> nnx.Dropout:
    """Zeroes with probability `rate` and scales the rest by 1/(1-rate), once `train()` is called.

    A model drops nothing until then, so that calling it is a function of its input. InputError for
    a rate outside [0, 1).
    """
    rate = DROPOUT_RATE.check("dropout_rate", rate)
    return Dropout(rate, deterministic=True, rngs=rngs if rate > 0 else None)

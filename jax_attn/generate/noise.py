"""What is random in a text: Gumbel noise, a function of the key, the row and the new token."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, UInt32

# One key for all rows, or one for each.
Keys = PRNGKeyArray | Key[Array, " B"] | UInt32[Array, "B words"]

# Noise is drawn for so many tokens at a time: one by one, it costs as much as a small model.
NOISE_STEPS = 32
MOST_NOISE = 1 << 25  # numbers held at a time; of many rows and ids it is drawn for fewer tokens


def gumbel(
    key: Keys, i: Int[Array, ""], shape: tuple[int, int], dtype: DTypeLike
) -> Float[Array, "B V"]:
    """Of new token number `i`. Where each row has its own key, a row's is that of it alone."""
    if not has_rows(key):
        return jax.random.gumbel(jax.random.fold_in(key, i), shape, dtype)
    alone = (1, shape[1])
    return jax.vmap(lambda own: jax.random.gumbel(jax.random.fold_in(own, i), alone, dtype)[0])(key)


def has_rows(key: Keys) -> bool:
    """Whether it is an array of keys, one for each row; keys of the old kind are two numbers."""
    return key.ndim > (0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1)

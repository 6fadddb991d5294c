"""Places in texts: one number for all rows, or a number for each row."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jax_attn.nn.key_value_cache import Cache


def take(rows: Shaped[Array, "B T *more"], place: Int[Array, "*#B"], width: int) -> Array:
    """`width` of a row's entries, from its place on: [B width *more]."""
    if place.ndim == 0:
        return jax.lax.dynamic_slice_in_dim(rows, place, width, axis=1)
    return jax.vmap(lambda row, at: jax.lax.dynamic_slice_in_dim(row, at, width))(rows, place)


def put(text: Int[Array, "B T"], tokens: Int[Array, " B"], place: Int[Array, "*#B"]) -> Array:
    """The text with a row's token at its place."""
    if place.ndim == 0:
        return jax.lax.dynamic_update_slice_in_dim(text, tokens[:, None], place, axis=1)
    return text.at[jnp.arange(len(text)), place].set(tokens, unique_indices=True)


def step(
    model: Any, newest: Int[Array, "B 1"], cache: Cache, position: Int[Array, "*#B"]
) -> tuple[Float[Array, "B V"], Cache]:
    """The logits at a row's position, whose token is `newest`, and the cache with that position."""
    if position.ndim == 0:
        logits, cache = model.step(newest, cache, position)
        return logits[:, 0], cache

    def of_row(token, past, position):
        logits, past = model.step(token[None], past, position)
        return logits[0, 0], past

    # A layer's first axis is that of the rows, or of the rows' heads.
    apart = jax.tree.map(lambda x: x.reshape(len(newest), -1, *x.shape[1:]), cache)
    logits, apart = jax.vmap(of_row)(newest, apart, position)
    return logits, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), apart)

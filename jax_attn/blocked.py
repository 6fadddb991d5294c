"""Causal attention in blocks of queries, each against the keys up to its own end.

Half of a causal [T T] matrix is masked; here that half is not computed, but for the corners of the
blocks on the diagonal. The derivative forms the weights of a block again from the scores and the
logarithm of their sum, so that no [T T] matrix is kept (Dao et al., FlashAttention, 2022).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.layers import product, transposed

# Smaller blocks skip more of the masked half but make smaller matrix products.
QUERY_BLOCK = 64


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def blocked_attention(
    query: Float[Array, "... T K"],
    key: Float[Array, "... T K"],
    value: Float[Array, "... T K"],
    scale: float,
) -> Float[Array, "... T K"]:
    """Causal attention; softmax in at least float32. Reverse-mode derivatives only."""
    return _forward(query, key, value, scale)[0]


def _blocks(length: int) -> list[tuple[int, int]]:
    """The first position of each block, and the one past its last."""
    return [(i, min(i + QUERY_BLOCK, length)) for i in range(0, length, QUERY_BLOCK)]


def _scores(query, key, start: int, stop: int, scale: float):
    """Of the queries from `start` to `stop` with all keys before `stop`; at least float32."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = product(query[..., start:stop, :], transposed(key[..., :stop, :]), wide)
    allowed = jnp.arange(start, stop)[:, None] >= jnp.arange(stop)
    return jnp.where(allowed, scores * scale, -jnp.inf)


def _forward(query, key, value, scale):
    # Head by head as they are, for all products: XLA's CPU compiler would lay keys and values out
    # across as well, for the one block that takes them whole.
    query, key, value = jax.lax.optimization_barrier((query, key, value))
    outputs, log_sums = [], []
    for start, stop in _blocks(query.shape[-2]):
        scores = _scores(query, key, start, stop, scale)
        largest = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = weights.sum(axis=-1, keepdims=True)
        outputs.append(
            product((weights / total).astype(value.dtype), value[..., :stop, :], value.dtype)
        )
        log_sums.append(largest + jnp.log(total))
    output = jnp.concatenate(outputs, axis=-2)
    return output, (query, key, value, output, log_sums)


def _backward(scale, saved, doutput):
    query, key, value, output, log_sums = saved
    wide = log_sums[0].dtype
    # The derivative of a softmax takes from each weight's derivative their mean under the weights,
    # which is the product of the output and its derivative.
    mean = (doutput.astype(wide) * output.astype(wide)).sum(axis=-1, keepdims=True)
    blocks = _blocks(query.shape[-2])
    dquery = []
    dkey: list[list[jax.Array]] = [[] for _ in blocks]
    dvalue: list[list[jax.Array]] = [[] for _ in blocks]
    for (start, stop), log_sum in zip(blocks, log_sums, strict=True):
        dout = doutput[..., start:stop, :]
        weights = jnp.exp(_scores(query, key, start, stop, scale) - log_sum)
        dweights = product(dout, transposed(value[..., :stop, :]), wide)
        dscores = weights * (dweights - mean[..., start:stop, :]) * scale
        dscores = dscores.astype(query.dtype)
        weights = weights.astype(value.dtype)
        dquery.append(product(dscores, key[..., :stop, :], query.dtype))
        # What the queries of this block give to each key.
        to_key = product(transposed(dscores), query[..., start:stop, :], wide)
        to_value = product(transposed(weights), dout, wide)
        for i, (first, last) in enumerate(blocks):
            if first < stop:
                dkey[i].append(to_key[..., first:last, :])
                dvalue[i].append(to_value[..., first:last, :])
    return (
        jnp.concatenate(dquery, axis=-2),
        jnp.concatenate([sum(parts) for parts in dkey], axis=-2).astype(key.dtype),
        jnp.concatenate([sum(parts) for parts in dvalue], axis=-2).astype(value.dtype),
    )


blocked_attention.defvjp(_forward, _backward)

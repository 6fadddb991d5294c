"""Causal attention in blocks of queries, each against the keys up to its own end.

Half of a causal [T T] matrix is masked; here that half is not computed, but for the corners of the
blocks on the diagonal. The derivative forms the weights of a block again from the scores and the
logarithm of their sum, so that no [T T] matrix is kept (Dao et al., FlashAttention, 2022).

On a CPU many or long sequences are taken a few at a time: what lies between one product and the
next then stays in the cores' caches.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.nn.ops.opaque import opaque_on_cpu
from jax_attn.nn.ops.own_derivative import own_derivative
from jax_attn.nn.ops.products import product, transposed

# Smaller blocks skip more of the masked half but make smaller matrix products.
QUERY_BLOCK = 64
# Of one head: so many a core are few enough to be taken at once, and if not, so many at a time.
POSITIONS_AT_ONCE, POSITIONS_AT_A_TIME = 8192, 2048
CORES = min(os.cpu_count() or 1, 16)  # for more, nothing is known


@own_derivative(nondiff_argnums=(3,))
def blocked_attention(
    query: Float[Array, "... T K"],
    key: Float[Array, "... T K"],
    value: Float[Array, "... T K"],
    scale: float,
) -> Float[Array, "... T K"]:
    """Causal attention; softmax in at least float32."""
    return _forward_by_groups(query, key, value, scale)[0]


def sequences_at_a_time(n_sequences: int, length: int, cores: int) -> int:
    """Of all heads and batch rows; a divisor of `n_sequences`."""
    if n_sequences * length <= cores * POSITIONS_AT_ONCE:
        return n_sequences
    most = min(n_sequences, cores * max(1, POSITIONS_AT_A_TIME // length))
    return max(n for n in range(1, most + 1) if n_sequences % n == 0)


def _by_groups(function: Callable[..., Any], *arrays: Any) -> Any:
    """`function` of arrays [... a b], on a CPU for a few of the leading places at a time."""
    leading, length = arrays[0].shape[:-2], arrays[0].shape[-2]
    n_sequences = math.prod(leading)
    group = sequences_at_a_time(n_sequences, length, CORES)
    if group == n_sequences:
        return function(*arrays)

    def grouped(*arrays):
        parts = jax.tree.map(lambda x: x.reshape(-1, group, *x.shape[-2:]), arrays)
        results = jax.lax.map(lambda part: function(*part), parts)
        return jax.tree.map(lambda x: x.reshape(*leading, *x.shape[-2:]), results)

    return jax.lax.platform_dependent(*arrays, cpu=grouped, default=function)


def _forward_by_groups(query, key, value, scale):
    # Head by head as they are, for all products: XLA's CPU compiler would lay keys and values out
    # across as well, for the one block that takes them whole.
    query, key, value = jax.lax.optimization_barrier((query, key, value))
    output, log_sums = _by_groups(partial(_forward, scale=scale), query, key, value)
    return output, (query, key, value, output, log_sums)


def _backward_by_groups(scale, saved, doutput):
    function = partial(_by_groups, partial(_backward, scale=scale))
    return opaque_on_cpu(function, *saved, doutput)


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
    return jnp.concatenate(outputs, axis=-2), log_sums


def _backward(query, key, value, output, log_sums, doutput, scale):
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


blocked_attention.defvjp(_forward_by_groups, _backward_by_groups)

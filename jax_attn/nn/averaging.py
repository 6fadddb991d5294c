"""The lecture's three ways to average over the past: loop, matrix product, masked softmax.

The third is attention with all scores zero; `attention.py` goes on from there.
"""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.domains import COUNT
from jax_attn.nn.attention import attention_weights, causal_mask
from jax_attn.nn.inputs import check_channels
from jax_attn.room import require_room


def averaging_weights(length: int, dtype: DTypeLike = jnp.float32) -> Float[Array, "T T"]:
    """Lower-triangular [T T]; row t holds 1/(t+1) in its first t+1 places.

    For length 3::

        1    0    0
        1/2  1/2  0
        1/3  1/3  1/3

    InputError for a negative length, and for one whose square takes more memory than there is.
    """
    length = COUNT.check("length", length)
    require_room(length**2 * jnp.dtype(dtype).itemsize, f"a matrix of length {length:,}")
    tril = jnp.tril(jnp.ones((length, length), dtype))
    return tril / tril.sum(axis=1, keepdims=True)


def softmax_averaging_weights(length: int, dtype: DTypeLike = jnp.float32) -> Float[Array, "T T"]:
    """The matrix of `averaging_weights`, from a softmax over zeros with -inf above the diagonal."""
    mask = causal_mask(length)
    nothing = jnp.zeros((length, 1), dtype)
    return attention_weights(nothing, nothing, mask=mask)


def running_mean_loop(x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
    """Mean of x[b, 0..t] at every t, one position after the other."""
    check_channels(x, None)
    means = [x[:, : t + 1].mean(axis=1) for t in range(x.shape[1])]
    return jnp.stack(means, axis=1)


def running_mean_matmul(x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
    """Mean of x[b, 0..t] at every t, as one matrix product."""
    check_channels(x, None)
    return averaging_weights(x.shape[1], x.dtype) @ x


def running_mean_softmax(x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
    """Mean of x[b, 0..t] at every t, by masked softmax."""
    check_channels(x, None)
    return softmax_averaging_weights(x.shape[1], x.dtype) @ x

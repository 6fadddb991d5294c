"""Layer norm's arithmetic, and its derivative as each kind of device computes it fastest."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.nn.ops.own_derivative import own_derivative


@own_derivative(nondiff_argnums=(3, 4))
def normalize(
    x: Float[Array, "*batch C"],
    scale: Float[Array, " C"],
    bias: Float[Array, " C"] | None,
    epsilon: float,
    dtype: DTypeLike,
) -> Float[Array, "*batch C"]:
    """Each row of x less its mean, divided by its deviation, times scale, plus bias; in `dtype`.

    Computed in at least float32.
    """
    return _forward(x, scale, bias, epsilon, dtype)[0]


def _forward(x, scale, bias, epsilon, dtype):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean(axis=-1, keepdims=True)
    centered = wide - mean
    variance = (centered * centered).mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    normalized = centered * inverse * scale
    normalized = normalized if bias is None else normalized + bias
    return normalized.astype(dtype), (x, scale, bias, mean, inverse)


def _backward(epsilon, dtype, saved, dy):
    del dtype
    x, scale, bias, mean, inverse = saved
    dx, dscale, dbias = jax.lax.platform_dependent(
        x, scale, mean, inverse, dy, cpu=_on_cpu, default=partial(_elsewhere, epsilon=epsilon)
    )
    dbias = None if bias is None else dbias.astype(bias.dtype)
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias


normalize.defvjp(_forward, _backward)


def _on_cpu(x, scale, mean, inverse, dy):
    """The sums over rows as products with a vector, four times as fast as sums of products."""
    normal_x = (x - mean) * inverse
    dy = dy.astype(inverse.dtype)
    weighted = dy * normal_x

    def mean_times_scale(rows):
        total = jnp.matmul(rows, scale.astype(rows.dtype), precision=jax.lax.Precision.HIGHEST)
        return total[..., None] / x.shape[-1]

    # What does not change a row's normalized values, its shift and its stretch, is taken out.
    dx = inverse * (dy * scale - mean_times_scale(dy) - normal_x * mean_times_scale(weighted))
    return dx, *_column_sums(weighted, dy)


def _elsewhere(x, scale, mean, inverse, dy, epsilon):
    """Two kernels, one a row and one a column, that read x and dy and write no array between.

    XLA would share the normalized rows between them, in float32: three times the traffic. It also
    keeps the forward pass in one kernel if that need not hand over its means.
    """
    del mean, inverse
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x, dy = jax.lax.optimization_barrier((x, dy))

    centered = x - x.astype(wide).mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt((centered * centered).mean(axis=-1, keepdims=True) + epsilon)
    normal_x = centered * inverse
    dnormal = dy.astype(wide) * scale
    stretch = (dnormal * normal_x).mean(axis=-1, keepdims=True)
    dx = inverse * (dnormal - dnormal.mean(axis=-1, keepdims=True) - normal_x * stretch)

    x, dy = jax.lax.optimization_barrier((x, dy))
    mean, variance = _mean_and_variance(x.astype(wide))
    dy = dy.astype(wide)
    return dx, *_column_sums(dy * (x - mean) * jax.lax.rsqrt(variance + epsilon), dy)


def _column_sums(weighted, dy):
    rows = tuple(range(dy.ndim - 1))
    return weighted.sum(axis=rows), dy.sum(axis=rows)


def _mean_and_variance(x):
    """Of each row, in one reading: the parts' means and squared distances are put together.

    Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm", 1979.
    """

    def together(a, b):
        (n_a, mean_a, squares_a), (n_b, mean_b, squares_b) = a, b
        n = n_a + n_b
        share = n_b / jnp.maximum(n, 1)
        apart = mean_b - mean_a
        return n, mean_a + apart * share, squares_a + squares_b + apart * apart * n_a * share

    zero = x.dtype.type(0)
    n, mean, squares = jax.lax.reduce(
        (jnp.ones_like(x), x, jnp.zeros_like(x)), (zero, zero, zero), together, (x.ndim - 1,)
    )
    return mean[..., None], (squares / n)[..., None]

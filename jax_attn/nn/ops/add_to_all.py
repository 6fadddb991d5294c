"""A sequence added to every row of a batch, and the sum that is its derivative."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from jax_attn.nn.ops.own_derivative import own_derivative


@own_derivative()
def add_to_all(
    batch: Float[Array, "B T C"], sequence: Float[Array, "T C"]
) -> Float[Array, "B T C"]:
    """batch + sequence.

    The derivative is written out for XLA's CPU compiler, whose sum over a few long rows takes forty
    times as long as adding them.
    """
    return batch + sequence


def _add_to_all_forward(batch, sequence):
    return add_to_all(batch, sequence), None


def _add_to_all_backward(_, dy):
    wide = jnp.promote_types(dy.dtype, jnp.float32)

    def added(dy):
        rows = [dy[i].astype(wide) for i in range(dy.shape[0])]
        return functools.reduce(jnp.add, rows).astype(dy.dtype)

    def summed(dy):
        # Held in its order: XLA's GPU compiler would lay out the whole residual stream across the
        # batch for the sake of this one sum.
        dy = with_layout_constraint(dy, Layout(tuple(range(dy.ndim))))
        return dy.sum(axis=0)

    return dy, jax.lax.platform_dependent(dy, cpu=added, default=summed)


add_to_all.defvjp(_add_to_all_forward, _add_to_all_backward)

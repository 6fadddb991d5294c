"""A computation that XLA's CPU compiler does not look into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def opaque_on_cpu(function: Callable[..., Any], *operands: Any) -> Any:
    """`function(*operands)`, on a CPU in the branch of a condition that always holds.

    For a derivative that takes from little what it could have kept. XLA's CPU compiler would see
    that the forward pass has computed it, or could right away, and keep it after all; barriers do
    not hinder it, since it drops them before. It neither merges nor moves what is in a branch.
    """

    def in_a_branch(*operands):
        shapes = jax.eval_shape(function, *operands)
        always = jax.lax.optimization_barrier(jnp.bool_(True))  # or the branch would be dissolved
        return jax.lax.cond(
            always,
            function,
            lambda *_: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
            *operands,
        )

    return jax.lax.platform_dependent(*operands, cpu=in_a_branch, default=function)

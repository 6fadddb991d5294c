"""Activations whose derivatives keep little from the forward pass."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.nn.ops.opaque import opaque_on_cpu
from jax_attn.nn.ops.own_derivative import own_derivative


@own_derivative(nondiff_argnums=(1,))
def gelu(x: Float[Array, "*shape"], approximate: bool) -> Float[Array, "*shape"]:
    """GELU in at least float32, rounded once; exact (erf) or GPT-2's (tanh).

    The derivative is taken from `x` alone: differentiation would keep six arrays of this size, the
    largest of a block, where computing them again costs no reading from memory.
    """
    return jax.nn.gelu(x, approximate=approximate)


def _gelu_forward(x, approximate):
    return gelu(x, approximate), x


def _gelu_backward(approximate, x, dy):
    # Without the barrier XLA finds that all was computed before, and keeps it after all.
    x, dy = jax.lax.optimization_barrier((x, dy))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    function = partial(jax.nn.gelu, approximate=approximate)
    _, derivative = jax.vjp(function, x.astype(wide))
    (dx,) = derivative(dy.astype(wide))
    return (dx.astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@own_derivative()
def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """max(x, 0); the derivative at 0 is 0.

    The derivative is taken from the result, which the next layer keeps anyway.
    """

    # A maximum XLA's CPU compiler would compute and keep for each of its two readers.
    def of_cpu(x):
        return jnp.where(x <= 0, 0, x)

    return jax.lax.platform_dependent(x, cpu=of_cpu, default=jax.nn.relu)


def _relu_forward(x):
    y = relu(x)
    return y, y


def _relu_backward(y, dy):
    return (opaque_on_cpu(lambda y, dy: jnp.where(y > 0, dy, 0), y, dy),)


relu.defvjp(_relu_forward, _relu_backward)

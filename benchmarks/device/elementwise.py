"""Layer norm, GELU and dropout, each in the package's way and in others that exist only here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.device.record import Record
from benchmarks.device.sizes import Sizes
from benchmarks.device.timing import Variant, forward_backward, time_variants
from jax_attn import layers
from jax_attn.gpt import ACTIVATIONS

EPSILON = 1e-5
RATE = 0.2  # the lecture's, of dropping


def normals(*shape: int, seed: int = 0, dtype: Any = jnp.bfloat16) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def norms(record: Record, sizes: Sizes) -> None:
    rows, c = sizes.gpt2.batch_size * sizes.gpt2.length, sizes.gpt2.n_embd
    x, dy = normals(rows, c), normals(rows, c, seed=1)
    inputs = (x, 1 + normals(c, seed=2, dtype=jnp.float32), normals(c, seed=3, dtype=jnp.float32))

    def narrow(function):
        return lambda *inputs: function(*inputs, EPSILON).astype(jnp.bfloat16)

    ways = {
        "jax_attn": layers.normalize,
        "autodiff": normalize,
        "own derivative, sums": with_sums,
        "own derivative, products with a vector": with_products,
    }
    variants = [forward_backward(n, narrow(way), inputs, dy) for n, way in ways.items()]
    wide = (x.astype(jnp.float32), *inputs[1:])
    reference = forward_backward(
        "float32", partial(normalize, epsilon=EPSILON), wide, dy.astype(jnp.float32)
    )
    time_variants(record, "layer norm", variants, sizes, reference, rows=rows, channels=c)


def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    wide = x.astype(jnp.float32)
    centered = wide - wide.mean(axis=-1, keepdims=True)
    variance = (centered * centered).mean(axis=-1, keepdims=True)
    return centered * jax.lax.rsqrt(variance + epsilon) * scale + bias


def _with_derivative(weighted_sum: Callable[[jax.Array, jax.Array], jax.Array]) -> Any:
    """`normalize` with a derivative of its own, its sums over a row by `weighted_sum`."""

    @partial(jax.custom_vjp, nondiff_argnums=(3,))
    def function(x, scale, bias, epsilon):
        return normalize(x, scale, bias, epsilon)

    def forward(x, scale, bias, epsilon):
        wide = x.astype(jnp.float32)
        mean = wide.mean(axis=-1, keepdims=True)
        variance = ((wide - mean) ** 2).mean(axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(variance + epsilon)
        return (wide - mean) * inverse * scale + bias, (x, scale, mean, inverse)

    def backward(epsilon, saved, dy):
        x, scale, mean, inverse = saved
        normal_x = (x - mean) * inverse
        weighted = dy * normal_x
        share = weighted_sum(dy, scale) + normal_x * weighted_sum(weighted, scale)
        dx = inverse * (dy * scale - share / x.shape[-1])
        return dx.astype(x.dtype), weighted.sum(0), dy.sum(0)

    function.defvjp(forward, backward)
    return function


def _summed(rows: jax.Array, scale: jax.Array) -> jax.Array:
    return (rows * scale).sum(axis=-1, keepdims=True)


def _multiplied(rows: jax.Array, scale: jax.Array) -> jax.Array:
    return jnp.matmul(rows, scale, precision=jax.lax.Precision.HIGHEST)[..., None]


with_sums, with_products = _with_derivative(_summed), _with_derivative(_multiplied)


def activations(record: Record, sizes: Sizes) -> None:
    rows, c = sizes.gpt2.batch_size * sizes.gpt2.length, 4 * sizes.gpt2.n_embd
    x, dy = normals(rows, c), normals(rows, c, seed=1)
    ways = {
        "jax_attn": ACTIVATIONS["gelu_tanh"],
        "autodiff": jax.nn.gelu,
        "own derivative, from the input": from_input,
    }
    variants = [forward_backward(n, way, [x], dy) for n, way in ways.items()]
    reference = forward_backward(
        "float32", jax.nn.gelu, [x.astype(jnp.float32)], dy.astype(jnp.float32)
    )
    time_variants(record, "GELU", variants, sizes, reference, rows=rows, channels=c)


@jax.custom_vjp
def from_input(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x)


def _from_input_backward(x, dy):
    _, derivative = jax.vjp(jax.nn.gelu, x.astype(jnp.float32))
    return (derivative(dy.astype(jnp.float32))[0].astype(x.dtype),)


from_input.defvjp(lambda x: (from_input(x), x), _from_input_backward)


def dropouts(record: Record, sizes: Sizes) -> None:
    """Of the lecture's attention weights; what is drawn differs from way to way."""
    batch, length = sizes.lecture_batch
    shape = (batch, sizes.lecture_heads, length, length)
    x, dy = normals(*shape), normals(*shape, seed=1)
    module = layers.dropout(RATE, nnx.Rngs(dropout=0))
    module.train()
    structure, state = nnx.split(module)

    def package(x, state):
        return nnx.merge(structure, state, copy=True)(x)

    def by(draw):
        return lambda x, key: jnp.where(draw(key, x.shape), x / (1 - RATE), 0).astype(x.dtype)

    def words(key, shape):
        return jax.random.bernoulli(key, 1 - RATE, shape)

    variants = [
        forward_backward("jax_attn", package, [x], dy, [state]),
        forward_backward("threefry, 32 bits", by(words), [x], dy, [jax.random.key(0)]),
        forward_backward("threefry, 16 bits", by(halves), [x], dy, [jax.random.key(0)]),
        forward_backward("rbg, 32 bits", by(words), [x], dy, [jax.random.key(0, impl="rbg")]),
        forward_backward("rbg, 16 bits", by(halves), [x], dy, [jax.random.key(0, impl="rbg")]),
        Variant("no draw", lambda x, dy: (x / (1 - RATE), dy / (1 - RATE)), (x, dy)),
    ]
    time_variants(record, "dropout", variants, sizes, shape=shape)


def halves(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Whether to keep, by 16 bits each: two from every word."""
    *others, last = shape
    words = jax.random.bits(key, (*others, last // 2), jnp.uint32)
    bits = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(shape)
    return bits < jnp.uint16(round((1 - RATE) * (1 << 16)))

"""Layer norm, GELU and dropout, each in the package's way and in others that exist only here."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.device.record import Record
from benchmarks.device.sizes import Sizes
from benchmarks.device.timing import Variant, forward_backward, time_variants
from jax_attn.nn.dropout import dropout
from jax_attn.nn.layers import ACTIVATIONS, layer_norm

EPSILON = 1e-5
RATE = 0.2  # the lecture's, of dropping


def normals(*shape: int, seed: int = 0, dtype: Any = jnp.bfloat16) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def norms(record: Record, sizes: Sizes) -> None:
    rows, c = sizes.gpt2.batch_size * sizes.gpt2.length, sizes.gpt2.n_embd
    x, dy = normals(rows, c), normals(rows, c, seed=1)
    inputs = (x, 1 + normals(c, seed=2, dtype=jnp.float32), normals(c, seed=3, dtype=jnp.float32))

    module = layer_norm(
        c, epsilon=EPSILON, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=jnp.float32
    )
    structure, state = nnx.split(module)
    names = jax.tree.structure(state)

    def package(x, scale, bias, epsilon):
        del epsilon  # the module has it
        return nnx.merge(structure, jax.tree.unflatten(names, (bias, scale)))(x)

    def narrow(function):
        return lambda *inputs: function(*inputs, EPSILON).astype(jnp.bfloat16)

    ways = {
        "jax_attn": package,
        "autodiff": normalize,
        "products with a vector": with_products,
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


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def with_products(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """`normalize`; the sums over rows in its derivative are products with a vector."""
    return normalize(x, scale, bias, epsilon)


def _with_products_forward(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    variance = ((wide - mean) ** 2).mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return (wide - mean) * inverse * scale + bias, (x, scale, mean, inverse)


def _with_products_backward(epsilon, saved, dy):
    del epsilon
    x, scale, mean, inverse = saved
    normal_x = (x - mean) * inverse
    weighted = dy * normal_x

    def weighted_mean(rows):
        total = jnp.matmul(rows, scale, precision=jax.lax.Precision.HIGHEST)
        return total[..., None] / x.shape[-1]

    dx = inverse * (dy * scale - weighted_mean(dy) - normal_x * weighted_mean(weighted))
    return dx.astype(x.dtype), weighted.sum(0), dy.sum(0)


with_products.defvjp(_with_products_forward, _with_products_backward)


def activations(record: Record, sizes: Sizes) -> None:
    rows, c = sizes.gpt2.batch_size * sizes.gpt2.length, 4 * sizes.gpt2.n_embd
    x, dy = normals(rows, c), normals(rows, c, seed=1)
    ways = {
        "jax_attn": ACTIVATIONS["gelu_tanh"],
        "autodiff": jax.nn.gelu,
    }
    variants = [forward_backward(n, way, [x], dy) for n, way in ways.items()]
    reference = forward_backward(
        "float32", jax.nn.gelu, [x.astype(jnp.float32)], dy.astype(jnp.float32)
    )
    time_variants(record, "GELU", variants, sizes, reference, rows=rows, channels=c)


def dropouts(record: Record, sizes: Sizes) -> None:
    """Of the lecture's attention weights; what is drawn differs from way to way."""
    batch, length = sizes.lecture_batch
    shape = (batch, sizes.lecture_heads, length, length)
    x, dy = normals(*shape), normals(*shape, seed=1)
    module = dropout(RATE, nnx.Rngs(dropout=0))
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

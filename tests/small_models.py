"""A model of every kind to generate with, small, and prompts for it.

A program costs seconds, and there is one for every structure and shape: tests that ask for the same
rows, lengths and settings share theirs.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jax_attn as ja

V, T = 11, 8
ROWS = 3
N = 19  # new tokens: with a prompt of up to T + 5, a text of 32 at most and one program for all
SHAPES = {
    "lecture": ja.GPTConfig(vocab_size=V, block_size=T, n_layer=1, n_head=3, n_embd=15),
    "gpt2": ja.GPTConfig.gpt2(vocab_size=V, block_size=T, n_layer=1, n_head=3, n_embd=15),
    "two layers": ja.GPTConfig.gpt2(vocab_size=V, block_size=T, n_layer=2, n_head=3, n_embd=15),
    "dropout": ja.GPTConfig(V, T, 1, 3, 15, dropout_rate=0.5),
}


class Plain(nnx.Module):
    """A model without a cache, as somebody may bring."""

    block_size = T

    def __init__(self, model):
        self.model = model

    def __call__(self, idx):
        return self.model(idx)


def filled(build: Callable[[], Any]) -> Any:
    """The module that `build` makes, its parameters random numbers of NumPy's, biases too.

    The initializers would be compiled, for every shape that there is.
    """
    graphdef, streams, shapes = nnx.split(nnx.eval_shape(build), nnx.RngState, ...)
    draw = np.random.default_rng(0)

    def numbers(leaf):
        if len(leaf.shape) == 1:  # a bias or a norm's scale
            return jnp.asarray(draw.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype))
        return jnp.asarray(
            (draw.normal(size=leaf.shape) * leaf.shape[0] ** -0.5).astype(leaf.dtype)
        )

    def stream(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(draw.integers(2**31))
        return jnp.asarray(np.zeros(leaf.shape, leaf.dtype))

    params = jax.tree.map(numbers, shapes)  # first: they are the same with dropout and without
    return nnx.merge(graphdef, jax.tree.map(stream, streams), params)


def make(name, param_dtype=jnp.float32, dtype=None):
    dtypes = {"param_dtype": param_dtype, "dtype": dtype}

    def build():
        rngs = nnx.Rngs(3)
        if name == "head":
            return ja.SingleHeadLanguageModel(V, T, 15, 5, rngs=rngs, **dtypes)
        if name == "bigram":
            return ja.BigramLanguageModel(V, rngs=rngs, **dtypes)
        return ja.GPT(SHAPES[name], rngs=rngs, **dtypes)

    return Plain(make("lecture", **dtypes)) if name == "plain" else filled(build)


model_of = cache(make)  # for tests that leave it as it is
KEY = jax.random.key(7)
GREEDY = {"temperature": 0.0}
TOP_3 = {"temperature": 0.7, "top_k": 3}


def prompts(length, rows=ROWS):
    return np.random.default_rng(length).integers(0, V, (rows, length), np.int32)

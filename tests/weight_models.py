"""A model of every kind whose weights are put into files, small, and the letters of its ids."""

import jax.numpy as jnp
from flax import nnx

import jax_attn as ja
from tests.small_models import filled

V, T = 11, 8
SHAPE = {"vocab_size": V, "block_size": T, "n_layer": 1, "n_head": 3, "n_embd": 12}
LETTERS = "kjihgfedcba"  # in no order of their own


def gpt(dtype=jnp.float32, **fields):
    return filled(
        lambda: ja.GPT(ja.GPTConfig(**(SHAPE | fields)), rngs=nnx.Rngs(0), param_dtype=dtype)
    )


def gpt2(dtype=jnp.float32, **fields):
    family = {"activation": "gelu_tanh", "qkv_bias": True, "tie_embeddings": True}
    return gpt(dtype, **(family | {"head_bias": False} | fields))


def bigram():
    return filled(lambda: ja.BigramLanguageModel(V, rngs=nnx.Rngs(0)))


def single_head():
    return filled(lambda: ja.SingleHeadLanguageModel(V, T, 12, 5, rngs=nnx.Rngs(0)))

"""A model of every kind to generate with, small, and prompts for it."""

import jax
import jax.numpy as jnp
from flax import nnx

import jax_attn as ja

V, T = 11, 8
SHAPES = {
    "lecture": ja.GPTConfig(vocab_size=V, block_size=T, n_layer=2, n_head=3, n_embd=15),
    "gpt2": ja.GPTConfig.gpt2(vocab_size=V, block_size=T, n_layer=2, n_head=3, n_embd=15),
    "dropout": ja.GPTConfig(V, T, 1, 3, 15, dropout_rate=0.5),
}


class Plain(nnx.Module):
    """A model without a cache, as somebody may bring."""

    block_size = T

    def __init__(self, model):
        self.model = model

    def __call__(self, idx):
        return self.model(idx)


def make(name, param_dtype=jnp.float32, dtype=None):
    rngs, dtypes = nnx.Rngs(3), {"param_dtype": param_dtype, "dtype": dtype}
    if name == "head":
        return ja.SingleHeadLanguageModel(V, T, 15, 5, rngs=rngs, **dtypes)
    if name == "bigram":
        return ja.BigramLanguageModel(V, rngs=rngs, **dtypes)
    if name == "plain":
        return Plain(make("lecture", **dtypes))
    return ja.GPT(SHAPES[name], rngs=rngs, **dtypes)


NAMES = ["lecture", "gpt2", "dropout", "head", "bigram", "plain"]
MODELS = {name: make(name) for name in NAMES}
KEY = jax.random.key(7)
TOP_3 = {"temperature": 0.7, "top_k": 3}


def prompts(rows, length):
    return jax.random.randint(jax.random.key(length), (rows, length), 0, V, dtype=jnp.int32)

"""Small modules of every kind, and what they take."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

import jax_attn as ja

V, T, C, H = 11, 8, 15, 3
CONFIG = ja.GPTConfig(V, T, n_layer=1, n_head=H, n_embd=C)
TIED = ja.GPTConfig.gpt2(vocab_size=V, block_size=T, n_layer=1, n_head=H, n_embd=C)
IDX = jnp.asarray(np.random.default_rng(0).integers(0, V, (2, 7), np.int32))
X = jnp.asarray(np.random.default_rng(1).normal(size=(2, 7, C)).astype(np.float32))

MODULES = {
    "GPT": lambda: ja.GPT(CONFIG, rngs=nnx.Rngs(0)),
    "GPT with a tied head": lambda: ja.GPT(TIED, rngs=nnx.Rngs(0)),
    "GPT with remat": lambda: ja.GPT(CONFIG, rngs=nnx.Rngs(0), remat=True),
    "single head": lambda: ja.SingleHeadLanguageModel(V, T, C, 5, rngs=nnx.Rngs(0)),
    "bigram": lambda: ja.BigramLanguageModel(V, rngs=nnx.Rngs(0)),
    "Head": lambda: ja.Head(C, 5, rngs=nnx.Rngs(0)),
    "MultiHeadAttention": lambda: ja.MultiHeadAttention(C, H, rngs=nnx.Rngs(0)),
    "Block": lambda: ja.Block(CONFIG, rngs=nnx.Rngs(0)),
    "FeedForward": lambda: ja.FeedForward(CONFIG, rngs=nnx.Rngs(0)),
}
LAYERS = ("Head", "MultiHeadAttention", "Block", "FeedForward")

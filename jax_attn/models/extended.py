"""A language model that knows more ids than it was made for."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jax_attn.domains import COUNT
from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.models.gpt import GPT
from jax_attn.models.language_model import LanguageModel


def extended(model: LanguageModel, n: int) -> LanguageModel:
    """`model` with `n` more ids after those it has; it itself is left as it is.

    What belongs to the old ids has the same bits, and so have their logits, but for the rounding of
    a product that is wider now. A new id has the mean of the old ones: of their rows, columns and
    biases. Its logit is then the mean of theirs, which no logarithm of a mean of exponentials is
    below: of V ids it has at most 1/V of the probability, after whatever text. A random row might
    have nearly all of it.
    """
    COUNT.check("n", n)
    made = nnx.clone(model)
    table = made.token_embedding_table
    table.embedding = _grown(table.embedding, n, 0)
    table.num_embeddings += n
    if isinstance(made, BigramLanguageModel):  # its rows are logits
        table.embedding = _grown(table.embedding, n, 1)
        table.features += n
        return made
    head = made.lm_head
    if head.kernel is not None:
        head.kernel = _grown(head.kernel, n, 1)
    if head.bias is not None:
        head.bias = _grown(head.bias, n, 0)
    if isinstance(made, GPT):
        vocab_size = made.config.vocab_size + n
        made.config = dataclasses.replace(made.config, vocab_size=vocab_size)
    else:
        made.lm_head.out_features += n
    return made


def _grown(param: nnx.Param[jax.Array], n: int, axis: int) -> Any:
    """With `n` more places along an axis, each of them the mean of the others."""
    old: Float[Array, ...] = param[...]
    wide = jnp.promote_types(old.dtype, jnp.float32)
    mean = old.mean(axis, dtype=wide, keepdims=True).astype(old.dtype)
    return param.replace(jnp.concatenate([old, jnp.repeat(mean, n, axis)], axis))

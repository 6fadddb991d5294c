"""The bigram model: the next character depends on the current one alone."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from jax_attn.layers import Embedding, normal


class BigramLanguageModel(nnx.Module):
    """A [V V] table whose row i holds the logits of what follows token i.

    The table begins as N(0, 1), as the lecture's nn.Embedding does.
    """

    block_size = 1  # how much context a prediction depends on; longer inputs are welcome

    def __init__(
        self,
        vocab_size: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.token_embedding_table = Embedding(
            vocab_size,
            vocab_size,
            embedding_init=normal(1.0),
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )

    def __call__(self, idx: Integer[Array, "B T"]) -> Float[Array, "B T V"]:
        return self.token_embedding_table(idx)

"""The lecture's first attentive model: embeddings, one causal head, logits."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Integer

from jax_attn.domains import SIZE
from jax_attn.nn.attention import Head
from jax_attn.nn.inputs import check_ids, check_rngs
from jax_attn.nn.key_value_cache import Cache
from jax_attn.nn.layers import Embedding, linear, normal, uniform_fan_in


class SingleHeadLanguageModel(nnx.Module):
    """Token and position embeddings, one causal head, a linear layer; no residual, no norm.

    Initialised as torch's layers are, but for the output's bias, which begins at zero.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_embd: int,
        head_size: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        SIZE.check("vocab_size", vocab_size)
        SIZE.check("block_size", block_size)
        check_rngs(rngs)

        def table(rows: int) -> Embedding:
            return Embedding(
                rows,
                n_embd,
                embedding_init=normal(1.0),
                rngs=rngs,
                dtype=dtype,
                param_dtype=param_dtype,
            )

        self.token_embedding_table = table(vocab_size)
        self.position_embedding_table = table(block_size)
        self.sa_head = Head(n_embd, head_size, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.lm_head = linear(
            head_size,
            vocab_size,
            kernel_init=uniform_fan_in,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        self.block_size = block_size

    def _embed(self, idx: Integer[Array, "B T"]) -> Float[Array, "B T C"]:
        check_ids(idx, longest=self.block_size)
        return self.token_embedding_table(idx) + self.position_embedding_table(
            jnp.arange(idx.shape[1])
        )

    def __call__(self, idx: Integer[Array, "B T"]) -> Float[Array, "B T V"]:
        """Logits; NaN where an id is outside the vocabulary."""
        return self.lm_head(self.sa_head(self._embed(idx)))

    def attention_weights(self, idx: Integer[Array, "B T"]) -> Float[Array, "1 B 1 T T"]:
        """The head's weights, in the [L B H T T] form of `GPT.attention_weights`."""
        return self.sa_head.weights(self._embed(idx))[None, :, None]

    def prefill(self, idx: Integer[Array, "B T"]) -> Cache:
        """The head's keys and values [B T K] of the positions from 0 on."""
        return (self.sa_head.keys_values(self._embed(idx)),)

    def step(
        self, idx: Integer[Array, "B 1"], cache: Cache, position: Int[Array, ""]
    ) -> tuple[Float[Array, "B 1 V"], Cache]:
        """The logits at `position`, whose token is `idx`, and the cache with that position."""
        x = self.token_embedding_table(idx) + self.position_embedding_table(position[None])
        attended, past = self.sa_head.step(x, cache[0], position)
        return self.lm_head(attended), (past,)

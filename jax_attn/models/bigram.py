"""The bigram model: the next character depends on the current one alone."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Integer

from jax_attn.domains import SIZE
from jax_attn.nn.inputs import check_ids, check_pairs, check_rngs
from jax_attn.nn.layers import Embedding, normal
from jax_attn.nn.loss import IGNORE, next_token_loss_sum


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
        SIZE.check("vocab_size", vocab_size)
        check_rngs(rngs)
        self.token_embedding_table = Embedding(
            vocab_size,
            vocab_size,
            embedding_init=normal(1.0),
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )

    def __call__(self, idx: Integer[Array, "B T"]) -> Float[Array, "B T V"]:
        check_ids(idx)
        return self.token_embedding_table(idx)

    def loss_sum(
        self, idx: Integer[Array, "B T"], targets: Integer[Array, "B T"]
    ) -> tuple[Float[Array, ""], Int[Array, ""]]:
        """`next_token_loss_sum` of the logits.

        The loss of a position depends on its two tokens alone. Where there are more positions than
        rows in the table, the losses of all pairs are fewer than the logits: each position's is
        looked up among them.
        """
        check_pairs(idx, targets)
        table = self.token_embedding_table.embedding[...].astype(self.token_embedding_table.dtype)
        if idx.size <= table.shape[0]:
            return next_token_loss_sum(self(idx), targets)
        wide = table.astype(jnp.promote_types(table.dtype, jnp.float32))
        counted = targets != IGNORE
        losses = (-jax.nn.log_softmax(wide)).at[idx, jnp.where(counted, targets, 0)]
        # NaN for a token outside the vocabulary, as in the logits and in their loss.
        looked_up = losses.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return jnp.where(counted, looked_up, 0).sum(), counted.sum(dtype=jnp.int32)

"""The training loss: mean cross-entropy of the next token, in nats per token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

IGNORE = -1  # a target that counts for nothing, as in nanoGPT


def next_token_loss_sum(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Sum of -log p(target) over the targets that are not -1, and how many those are.

    Computed in at least float32. A target outside [-1, V) makes the sum NaN; torch raises there.
    """
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    # With the largest logit at 0 first, as torch does it, a sure prediction's small loss is not the
    # difference of two large numbers.
    wide = wide - jax.lax.stop_gradient(wide.max(axis=-1, keepdims=True))
    counted = targets != IGNORE
    label = jnp.where(counted, targets, 0)[..., None]
    # A negative index would wrap around to the vocabulary's end; one past it gives NaN.
    label = jnp.where(label < 0, logits.shape[-1], label)
    chosen = jnp.take_along_axis(wide, label, axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
    losses = jnp.log(jnp.exp(wide).sum(axis=-1)) - chosen
    return jnp.where(counted, losses, 0).sum(), counted.sum(dtype=jnp.int32)


def next_token_loss(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]
) -> Float[Array, ""]:
    """Mean of -log p(target) in nats per token; targets of -1 are ignored.

    With every target ignored it is NaN, as torch's `cross_entropy` is.
    """
    total, count = next_token_loss_sum(logits, targets)
    return total / count

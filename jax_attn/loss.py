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
    Reverse-mode derivatives only.
    """
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return _loss_sum(wide, targets), (targets != IGNORE).sum(dtype=jnp.int32)


@jax.custom_vjp
def _loss_sum(wide: Float[Array, "*batch V"], targets: Int[Array, "*batch"]) -> Float[Array, ""]:
    """Its derivative is written out for XLA's CPU compiler: one pass over the logits.

    Differentiation would scatter the targets' share into a second array as large.
    """
    return _loss_sum_forward(wide, targets)[0]


def _loss_sum_forward(wide, targets):
    # With the largest logit at 0 first, as torch does it, a sure prediction's small loss is not the
    # difference of two large numbers.
    top = wide.max(axis=-1)
    exponentials = jnp.exp(wide - top[..., None])
    total = exponentials.sum(axis=-1)
    counted = targets != IGNORE
    label = jnp.where(counted, targets, 0)[..., None]
    # A negative index would wrap around to the vocabulary's end; one past it gives NaN.
    label = jnp.where(label < 0, wide.shape[-1], label)
    chosen = jnp.take_along_axis(wide, label, axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
    losses = jnp.log(total) - (chosen - top)
    return jnp.where(counted, losses, 0).sum(), (exponentials, total, targets)


def _loss_sum_backward(saved, dloss):
    exponentials, total, targets = saved
    of_target = targets[..., None] == jnp.arange(exponentials.shape[-1])
    dwide = dloss * (exponentials / total[..., None] - of_target)
    return jnp.where((targets != IGNORE)[..., None], dwide, 0), None


_loss_sum.defvjp(_loss_sum_forward, _loss_sum_backward)


def next_token_loss(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]
) -> Float[Array, ""]:
    """Mean of -log p(target) in nats per token; targets of -1 are ignored.

    With every target ignored it is NaN, as torch's `cross_entropy` is.
    """
    total, count = next_token_loss_sum(logits, targets)
    return total / count

"""The training loss: mean cross-entropy of the next token, in nats per token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jax_attn.nn.inputs import check_targets
from jax_attn.nn.ops.own_derivative import own_derivative

IGNORE = -1  # a target that counts for nothing, as in nanoGPT


def next_token_loss_sum(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Sum of -log p(target) over the targets that are not -1, and how many those are.

    Computed in at least float32. A target outside [-1, V) makes the sum NaN; torch raises there.
    """
    check_targets(logits, targets)
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return _loss_sum(wide, targets), (targets != IGNORE).sum(dtype=jnp.int32)


def plain_loss_sum(wide: Float[Array, "*batch V"], targets: Int[Array, "*batch"]) -> Array:
    """`next_token_loss_sum` of operations that can be differentiated forwards, and again."""
    counted = targets != IGNORE
    top, total, chosen = _sums_in_passes(wide, jnp.where(counted, targets, 0))
    return jnp.where(counted, jnp.log(total) - (chosen - top), 0).sum()


@own_derivative(plain=plain_loss_sum)
def _loss_sum(wide: Float[Array, "*batch V"], targets: Int[Array, "*batch"]) -> Float[Array, ""]:
    """Its derivative is written out for XLA's CPU compiler: one pass over the logits.

    Differentiation would scatter the targets' share into a second array as large.
    """
    return _loss_sum_forward(wide, targets)[0]


def _loss_sum_forward(wide, targets):
    counted = targets != IGNORE
    label = jnp.where(counted, targets, 0)
    top, total, chosen = jax.lax.platform_dependent(
        wide, label, cpu=_sums_in_passes, default=_sums_in_one_pass
    )
    # With the largest logit at 0 first, as torch does it, a sure prediction's small loss is not the
    # difference of two large numbers.
    losses = jnp.log(total) - (chosen - top)
    return jnp.where(counted, losses, 0).sum(), (wide, top, total, targets)


def _sums_in_passes(wide, label):
    """Of each row: the largest logit, the sum of exp(logit - largest), and the label's logit."""
    top = jax.lax.stop_gradient(wide.max(axis=-1))  # of which the loss does not depend
    total = jnp.exp(wide - top[..., None]).sum(axis=-1)
    # A negative index would wrap around to the vocabulary's end; one past it gives NaN.
    label = jnp.where(label < 0, wide.shape[-1], label)[..., None]
    chosen = jnp.take_along_axis(wide, label, axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
    return top, total, chosen


def _sums_in_one_pass(wide, label):
    """The same for an accelerator, whose time is that of reading the logits."""
    vocab_size, axis = wide.shape[-1], wide.ndim - 1
    of_label = label[..., None] == jnp.arange(vocab_size)

    def add(a, b):
        (top_a, total_a, chosen_a), (top_b, total_b, chosen_b) = a, b
        top = jnp.maximum(top_a, top_b)
        # Where they are equal both may be -inf.
        total = total_a * jnp.where(top_a == top, 1, jnp.exp(top_a - top))
        total += total_b * jnp.where(top_b == top, 1, jnp.exp(top_b - top))
        return top, total, chosen_a + chosen_b

    minus_infinity, zero = wide.dtype.type(-jnp.inf), wide.dtype.type(0)
    top, total, chosen = jax.lax.reduce(
        (wide, jnp.ones_like(wide), jnp.where(of_label, wide, 0)),
        (minus_infinity, zero, zero),
        add,
        (axis,),
    )
    chosen = jnp.where((label >= 0) & (label < vocab_size), chosen, jnp.nan)
    return top, jnp.where(jnp.isfinite(top), total, jnp.nan), chosen


def _loss_sum_backward(saved, dloss):
    wide, top, total, targets = saved
    of_target = targets[..., None] == jnp.arange(wide.shape[-1])
    dwide = dloss * (jnp.exp(wide - top[..., None]) / total[..., None] - of_target)
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

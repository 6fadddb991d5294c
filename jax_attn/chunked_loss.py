"""Output matrix and cross-entropy in one, for a vocabulary whose logits would fill the memory.

The logits of a batch, [N V] in float32, are by far the largest array of a model like GPT-2: 1.6 GB
for 8,192 positions. Here a part of the rows is taken at a time, its loss and the derivatives of its
loss formed at once, so that no more than one part's logits ever exist.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jax_attn.loss import IGNORE, next_token_loss_sum

MOST_LOGITS = 1 << 26  # of one part; 256 MiB in float32
VOCABULARY_MULTIPLE = 128  # accelerators multiply in tiles: 50,257 columns become 50,304


def needs_parts(rows: int, vocab_size: int) -> bool:
    """Whether the logits of so many positions are too many to hold at once."""
    return rows * vocab_size > MOST_LOGITS


def chunked_loss_sum(
    hidden: Float[Array, "B T C"],
    matrix: Float[Array, "C V"],
    bias: Float[Array, " V"] | None,
    targets: Int[Array, "B T"],
    most_logits: int | None = None,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """`next_token_loss_sum(hidden @ matrix + bias, targets)`, at most `most_logits` at a time.

    None means MOST_LOGITS.

    Products are taken in the dtype of `hidden` and `matrix`, accumulated in float32; the loss is
    float32. Reverse-mode derivatives only.
    """
    vocab_size = matrix.shape[1]
    rows = hidden.reshape(-1, hidden.shape[-1])
    flat = targets.reshape(-1)
    extra = -vocab_size % VOCABULARY_MULTIPLE
    matrix = jnp.pad(matrix, ((0, 0), (0, extra)))
    wide = jnp.promote_types(hidden.dtype, jnp.float32)
    bias = jnp.zeros(vocab_size, wide) if bias is None else bias.astype(wide)
    bias = jnp.pad(bias, (0, extra), constant_values=-jnp.inf)  # no weight for the columns added
    # A target there would be one outside the vocabulary, which makes the loss NaN.
    flat = jnp.where(flat >= vocab_size, vocab_size + extra, flat)

    most_logits = MOST_LOGITS if most_logits is None else most_logits
    n_parts = -(-rows.shape[0] * (vocab_size + extra) // most_logits)
    part = -(-rows.shape[0] // n_parts)
    missing = n_parts * part - rows.shape[0]
    rows = jnp.pad(rows, ((0, missing), (0, 0))).reshape(n_parts, part, -1)
    flat = jnp.pad(flat, (0, missing), constant_values=IGNORE).reshape(n_parts, part)
    return _loss_of_parts(rows, matrix, bias, flat), (targets != IGNORE).sum(dtype=jnp.int32)


def _part_loss(
    rows: Float[Array, "R C"],
    matrix: Float[Array, "C V"],
    bias: Float[Array, " V"],
    targets: Int[Array, " R"],
) -> tuple[Float[Array, ""], Any]:
    """Loss sum of one part, and the function that gives the logits' derivative."""
    wide = jnp.promote_types(rows.dtype, jnp.float32)
    logits = jnp.matmul(rows, matrix, preferred_element_type=wide) + bias
    loss, derivative = jax.vjp(lambda x: next_token_loss_sum(x, targets)[0], logits)
    return loss, derivative


@jax.custom_vjp
def _loss_of_parts(
    rows: Float[Array, "P R C"],
    matrix: Float[Array, "C V"],
    bias: Float[Array, " V"],
    targets: Int[Array, "P R"],
) -> Float[Array, ""]:
    losses = jax.lax.map(
        lambda part: _part_loss(part[0], matrix, bias, part[1])[0], (rows, targets)
    )
    return losses.sum()


def _forward(rows, matrix, bias, targets):
    """The loss, and with it all its derivatives: they are what has to be kept of the logits."""
    wide = jnp.promote_types(rows.dtype, jnp.float32)

    def one(carry, part):
        total, dmatrix, dbias = carry
        rows, targets = part
        loss, derivative = _part_loss(rows, matrix, bias, targets)
        (dlogits,) = derivative(jnp.ones((), wide))
        narrow = dlogits.astype(rows.dtype)
        drows = narrow @ matrix.T
        dmatrix += jnp.matmul(rows.T, narrow, preferred_element_type=wide)
        return (total + loss, dmatrix, dbias + dlogits.sum(0)), drows

    nothing = (jnp.zeros((), wide), jnp.zeros(matrix.shape, wide), jnp.zeros(bias.shape, wide))
    (total, dmatrix, dbias), drows = jax.lax.scan(one, nothing, (rows, targets))
    return total, (drows, dmatrix, dbias)


def _backward(derivatives, dloss):
    drows, dmatrix, dbias = derivatives
    wide = dmatrix.dtype
    scaled = dloss.astype(wide)
    return (
        (drows.astype(wide) * scaled).astype(drows.dtype),
        (dmatrix * scaled).astype(drows.dtype),
        dbias * scaled,
        None,
    )


_loss_of_parts.defvjp(_forward, _backward)

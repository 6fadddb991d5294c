"""Output matrix and cross-entropy in one, for a vocabulary whose logits would fill the memory.

The logits of a batch, [N V] in float32, are by far the largest array of a model like GPT-2: 1.6 GB
for 8,192 positions. Here a part of the rows is taken at a time, its loss and the derivatives of its
loss formed at once, so that no more than one part's logits ever exist.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jax_attn.nn.loss import IGNORE, next_token_loss_sum, plain_loss_sum
from jax_attn.nn.ops.own_derivative import own_derivative

# Logits of one part, 4 bytes each. Every part reads the output matrix and adds to its gradient: for
# an accelerator, which has the memory, eight times as many at once are a third less traffic.
MOST_LOGITS = 1 << 26
MOST_LOGITS_OF_ACCELERATORS = 1 << 29
TILE = 128  # accelerators multiply in tiles: 50,257 columns become 50,304, rows likewise


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

    None means what suits the device.

    Products are taken in the dtype of `hidden` and `matrix`, accumulated in float32; the loss is
    float32. Where derivatives are taken on an accelerator, the logits have the dtype of `hidden`:
    see `_part_loss`.
    """
    rows = hidden.reshape(-1, hidden.shape[-1])
    if bias is not None:
        bias = bias.astype(jnp.promote_types(hidden.dtype, jnp.float32))
    total: Any = _loss_in_parts(rows, matrix, bias, targets.reshape(-1), most_logits)
    return total, (targets != IGNORE).sum(dtype=jnp.int32)


def _loss_at_once(rows, matrix, bias, targets, most_logits):
    del most_logits
    wide = jnp.promote_types(rows.dtype, jnp.float32)
    logits = jnp.matmul(rows, matrix, preferred_element_type=wide)
    return plain_loss_sum(logits if bias is None else logits + bias, targets)


@own_derivative(nondiff_argnums=(4,), plain=_loss_at_once)
def _loss_in_parts(
    rows: Float[Array, "N C"],
    matrix: Float[Array, "C V"],
    bias: Float[Array, " V"] | None,
    targets: Int[Array, " N"],
    most_logits: int | None,
) -> Float[Array, ""]:
    return _by_device(_losses, most_logits, rows, matrix, bias, targets)


def _forward(rows, matrix, bias, targets, most_logits):
    """The loss, and with it all its derivatives: they are what has to be kept of the logits."""
    return _by_device(_losses_and_derivatives, most_logits, rows, matrix, bias, targets)


def _backward(most_logits, derivatives, dloss):
    del most_logits
    drows, dmatrix, dbias = derivatives
    wide = dmatrix.dtype
    scaled = dloss.astype(wide)
    return (
        (drows.astype(wide) * scaled).astype(drows.dtype),
        (dmatrix * scaled).astype(drows.dtype),
        None if dbias is None else dbias * scaled,
        None,
    )


_loss_in_parts.defvjp(_forward, _backward)


def _by_device(function: Any, most_logits: int | None, rows: Array, *arrays: Any) -> Any:
    wide = jnp.promote_types(rows.dtype, jnp.float32)
    of_cpu = partial(function, most_logits=most_logits or MOST_LOGITS, logits_dtype=wide)
    elsewhere = partial(
        function,
        most_logits=most_logits or MOST_LOGITS_OF_ACCELERATORS,
        logits_dtype=rows.dtype,
    )
    return jax.lax.platform_dependent(rows, *arrays, cpu=of_cpu, default=elsewhere)


def _losses(rows, matrix, bias, targets, most_logits, logits_dtype):
    del logits_dtype  # what is evaluated and not trained is not rounded
    wide = jnp.promote_types(rows.dtype, jnp.float32)
    vocab_size = matrix.shape[1]
    parts = _parts(rows, matrix, bias, targets, most_logits)

    def loss(part):
        rows, targets = part
        return _part_loss(rows, parts.matrix, parts.bias, targets, vocab_size, wide)[0]

    return jax.lax.map(loss, (parts.rows, parts.targets)).sum()


def _losses_and_derivatives(rows, matrix, bias, targets, most_logits, logits_dtype):
    wide = jnp.promote_types(rows.dtype, jnp.float32)
    n_rows, vocab_size = rows.shape[0], matrix.shape[1]
    parts = _parts(rows, matrix, bias, targets, most_logits)

    def one(carry, part):
        total, dmatrix, dbias = carry
        rows, targets = part
        loss, derivative = _part_loss(
            rows, parts.matrix, parts.bias, targets, vocab_size, logits_dtype
        )
        (dlogits,) = derivative(jnp.ones((), wide))
        narrow = dlogits.astype(rows.dtype)
        drows = narrow @ parts.matrix.T
        dmatrix += jnp.matmul(rows.T, narrow, preferred_element_type=wide)
        if dbias is not None:
            dbias += dlogits.sum(0)
        return (total + loss, dmatrix, dbias), drows

    nothing = (
        jnp.zeros((), wide),
        jnp.zeros(parts.matrix.shape, wide),
        None if parts.bias is None else jnp.zeros(parts.bias.shape, wide),
    )
    (total, dmatrix, dbias), drows = jax.lax.scan(one, nothing, (parts.rows, parts.targets))
    return total, (
        drows.reshape(-1, drows.shape[-1])[:n_rows],
        dmatrix[:, :vocab_size],
        None if dbias is None else dbias[:vocab_size],
    )


class _Parts(NamedTuple):
    """Columns filled up to W, a multiple of TILE; the rows in P equal parts of R."""

    rows: Float[Array, "P R C"]
    matrix: Float[Array, "C W"]
    bias: Float[Array, " W"] | None
    targets: Int[Array, "P R"]


def _parts(rows, matrix, bias, targets, most_logits: int) -> _Parts:
    n_rows, vocab_size = rows.shape[0], matrix.shape[1]
    extra = -vocab_size % TILE
    matrix = jnp.pad(matrix, ((0, 0), (0, extra)))
    bias = None if bias is None else jnp.pad(bias, (0, extra))
    # A target there would be one outside the vocabulary, which makes the loss NaN.
    targets = jnp.where(targets >= vocab_size, vocab_size + extra, targets)
    size = -(-n_rows // -(-n_rows * matrix.shape[1] // most_logits))
    if size > TILE:
        size += -size % TILE
    missing = -n_rows % size
    rows = jnp.pad(rows, ((0, missing), (0, 0))).reshape(-1, size, rows.shape[-1])
    targets = jnp.pad(targets, (0, missing), constant_values=IGNORE).reshape(-1, size)
    return _Parts(rows, matrix, bias, targets)


def _part_loss(
    rows: Float[Array, "R C"],
    matrix: Float[Array, "C W"],
    bias: Float[Array, " W"] | None,
    targets: Int[Array, " R"],
    vocab_size: int,
    logits_dtype: DTypeLike,
) -> tuple[Float[Array, ""], Any]:
    """Loss sum of one part, and the function that gives the logits' derivative.

    Logits in bfloat16, as torch's autocast has them, halve the traffic of the largest array: a
    twelfth of all that a step of GPT-2 reads and writes. Loss and derivative are those of the same
    rounded logits. Runs of 200 steps end within 4e-4 of the validation loss that they reach with
    float32 logits (`python -m benchmarks.rounded_logits`).
    """
    wide = jnp.promote_types(rows.dtype, jnp.float32)
    logits = jnp.matmul(rows, matrix, preferred_element_type=logits_dtype).astype(wide)
    if bias is not None:
        logits = logits + bias
    if matrix.shape[1] > vocab_size:  # no weight for the columns added
        logits = jnp.where(jnp.arange(matrix.shape[1]) < vocab_size, logits, -jnp.inf)
    loss, derivative = jax.vjp(lambda x: next_token_loss_sum(x, targets)[0], logits)
    return loss, derivative

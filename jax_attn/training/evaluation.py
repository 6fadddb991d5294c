"""The loss of a model over all of a text, or over sampled batches as the lecture estimates it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float64, Integer

from jax_attn.compiling.options import compiled
from jax_attn.data.mapped import release
from jax_attn.domains import LARGEST_INT32, SIZE
from jax_attn.errors import InputError
from jax_attn.nn.inputs import check_model
from jax_attn.nn.loss import IGNORE
from jax_attn.training.batches import Batches
from jax_attn.training.host_batches import HostBatches
from jax_attn.training.step import loss_fn

AHEAD = 2  # batches that are on their way while the next is prepared
OnBatch = Callable[[int, int], object]  # gets the number of batches done, and that of all


def ignore(done: int, of: int) -> None:
    """What `on_batch` is by default."""


@compiled()
def _loss_of_windows(graphdef, state, inputs, targets):
    model = nnx.merge(graphdef, state)
    model.eval()
    return loss_fn(model, inputs, targets)[0]


def evaluate(
    model: nnx.Module,
    tokens: Integer[Array | np.ndarray, " N"],
    *,
    block_size: int,
    batch_size: int = 64,
    on_batch: OnBatch = ignore,
) -> float:
    """Mean loss in nats over *every* token but the first, dropout off; deterministic.

    The tokens are cut into windows of `block_size`, end to end, and each is predicted from those
    before it in its window. `on_batch` is called before every batch of `batch_size` windows; what
    it raises ends the evaluation. Of tokens that are mapped (np.memmap) a batch is in memory at a
    time. Raises ValueError for fewer than two tokens, and sizes below 1.
    """
    SIZE.check("block_size", block_size)
    SIZE.check("batch_size", batch_size)
    check_model(model)
    ids = np.asarray(tokens)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise InputError(f"tokens are ids, integers [N]; these are {ids.dtype} {ids.shape}")
    n_targets = len(ids) - 1
    if n_targets < 1:
        raise ValueError(f"{len(ids)} tokens hold nothing to predict; give at least 2")
    graphdef, state = nnx.split(model)
    span = batch_size * block_size

    def loss_of(batch: int) -> jax.Array:
        # Filled up to whole batches, which one program then serves, whatever the number of tokens.
        begin, end = batch * span, min((batch + 1) * span, n_targets)
        empty = span - (end - begin)
        some = _int32(ids[begin : end + 1])
        release(tokens)
        inputs, targets = some[:-1], some[1:]
        shape = (batch_size, block_size)
        return _loss_of_windows(
            graphdef,
            state,
            np.pad(inputs, (0, empty)).reshape(shape),
            np.pad(targets, (0, empty), constant_values=IGNORE).reshape(shape),
        )

    return float(np.sum(_one_by_one(loss_of, -(-n_targets // span), on_batch)) / n_targets)


def _int32(ids: np.ndarray) -> np.ndarray:
    """InputError for what is too large for it."""
    if not np.can_cast(ids.dtype, np.int32) and (most := abs(ids).max()) > LARGEST_INT32:
        raise InputError(f"tokens hold {most}, which no id is: they are int32")
    return ids.astype(np.int32)


def compile_evaluation(
    model: nnx.Module, *, block_size: int, batch_size: int
) -> jax.stages.Compiled:
    """The program of `evaluate`, for it to find; of a model that may hold shapes only."""
    windows = jax.ShapeDtypeStruct((batch_size, block_size), jnp.int32)
    return _loss_of_windows.lower(*nnx.split(model), windows, windows).compile()


def estimate_loss(
    model: nnx.Module,
    batches: Batches | HostBatches,
    n_batches: int = 200,
    *,
    on_batch: OnBatch = ignore,
) -> float:
    """The lecture's estimate: mean loss in nats over `n_batches` sampled batches, dropout off.

    `on_batch` as for `evaluate`.
    """
    SIZE.check("n_batches", n_batches)
    check_model(model)
    graphdef, state = nnx.split(model)

    def loss_of(batch: int) -> jax.Array:
        some = batches
        if isinstance(batches, HostBatches):
            some = batches.given(batch, 1)
            if batch + 1 < n_batches:
                batches.prepare(batch + 1, 1, 1)
        return _loss_of_batch(graphdef, state, some, np.int32(batch))

    return float(np.mean(_one_by_one(loss_of, n_batches, on_batch)))


def _one_by_one(
    loss_of: Callable[[int], jax.Array], n_batches: int, on_batch: OnBatch
) -> Float64[np.ndarray, " N"]:
    """The losses of all batches, of which few are on their way at once.

    A device takes many thousand of them in a moment; nobody could then say how far it has come, or
    have it stop.
    """
    losses = []
    for batch in range(n_batches):
        on_batch(batch, n_batches)
        losses.append(loss_of(batch))
        if batch >= AHEAD:
            jax.block_until_ready(losses[batch - AHEAD])
    return np.array(jax.device_get(losses), np.float64)


@compiled()
def _loss_of_batch(graphdef, state, batches: Batches, step):
    model = nnx.merge(graphdef, state)
    model.eval()
    total, count = loss_fn(model, *batches.batch(step))
    return total / count

"""The loss of a model over all of a text, or over sampled batches as the lecture estimates it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Integer

from jax_attn.compiling.options import compiled
from jax_attn.domains import SIZE
from jax_attn.nn.loss import IGNORE
from jax_attn.training.batches import Batches
from jax_attn.training.step import loss_fn


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
) -> float:
    """Mean loss in nats over *every* token but the first, dropout off; deterministic.

    The tokens are cut into windows of `block_size`, end to end, and each is predicted from those
    before it in its window. Raises ValueError for fewer than two tokens, and sizes below 1.
    """
    SIZE.check("block_size", block_size)
    SIZE.check("batch_size", batch_size)
    ids = np.asarray(tokens, np.int32)
    n_targets = len(ids) - 1
    if n_targets < 1:
        raise ValueError(f"{len(ids)} tokens hold nothing to predict; give at least 2")
    graphdef, state = nnx.split(model)
    span = batch_size * block_size
    # Filled up to whole batches, which one program then serves, whatever the number of tokens.
    empty = -n_targets % span
    inputs = np.pad(ids[:-1], (0, empty)).reshape(-1, batch_size, block_size)
    targets = np.pad(ids[1:], (0, empty), constant_values=IGNORE).reshape(inputs.shape)
    sums = [
        _loss_of_windows(graphdef, state, *batch) for batch in zip(inputs, targets, strict=True)
    ]
    return float(np.sum(np.array(jax.device_get(sums), np.float64)) / n_targets)


def compile_evaluation(
    model: nnx.Module, *, block_size: int, batch_size: int
) -> jax.stages.Compiled:
    """The program of `evaluate`, for it to find; of a model that may hold shapes only."""
    windows = jax.ShapeDtypeStruct((batch_size, block_size), jnp.int32)
    return _loss_of_windows.lower(*nnx.split(model), windows, windows).compile()


def estimate_loss(model: nnx.Module, batches: Batches, n_batches: int = 200) -> float:
    """The lecture's estimate: mean loss in nats over `n_batches` sampled batches, dropout off."""
    SIZE.check("n_batches", n_batches)
    graphdef, state = nnx.split(model)
    losses = [_loss_of_batch(graphdef, state, batches, np.int32(i)) for i in range(n_batches)]
    return float(np.mean(np.array(jax.device_get(losses), np.float64)))


@compiled()
def _loss_of_batch(graphdef, state, batches: Batches, step):
    model = nnx.merge(graphdef, state)
    model.eval()
    total, count = loss_fn(model, *batches.batch(step))
    return total / count

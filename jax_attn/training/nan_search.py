"""Which operation of a step is the first to give NaN."""

import traceback
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_attn.training.batches import Batches
from jax_attn.training.step import TrainState, loss_and_gradients, train_step

PACKAGE = Path(__file__).parents[1]


def find_nan(
    state: TrainState,
    batches: Batches,
    optimizer: optax.GradientTransformation,
    accumulate_steps: int = 1,
) -> str:
    """Repeats the step after `state` operation by operation; says in words what fails first.

    An operation of the backward pass is located at the call that takes the gradient. Where
    nothing gives NaN, some value is too large: the first such is named.
    """
    inputs, targets = batches.batch(state.step)
    try:
        with jax.debug_nans(True), jax.disable_jit():
            train_step(state, inputs, targets, optimizer, accumulate_steps)
    except FloatingPointError as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if PACKAGE in Path(f.filename).parents]
        return f"{error}, in {Path(ours[-1].filename).name} line {ours[-1].lineno}: {ours[-1].line}"

    loss, gradients, _ = loss_and_gradients(state, inputs, targets, accumulate_steps)
    values = {"the loss": loss, "the gradient": gradients}
    for kind, tree in values.items():
        for path, value in jax.tree_util.tree_leaves_with_path(tree):
            if not jnp.isfinite(value).all():
                return f"no operation gives NaN, but {kind} {_dotted(path)}".rstrip() + " overflows"
    return "no operation gives NaN, but the square of the gradients' sum overflows"


def _dotted(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")

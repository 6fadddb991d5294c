"""Faults of a training run: what is carried from step to step, precision, resuming."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_attn.nn.ops import products
from jax_attn.runs import checkpoint
from jax_attn.training import step
from parity_tests.suite.mutants.planting import Mutant, Plant, edited, wrapped

STEP = f"{step.__name__}:train_step"
CHUNK = f"{step.__name__}:train_chunk"
RESTORE = f"{checkpoint.__name__}:Checkpoints.restore"


def _mutant(name: str, description: str, plant: Plant, caught_by: str = "trajectory") -> Mutant:
    return Mutant(name, "run", description, caught_by, plant)


def _restored(change: Callable[[Any, Any], Any]) -> Plant:
    """A resumed state is `change(state, fresh)`."""

    def wrap(restore: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, like: change(restore(self, like), like)

    return wrapped(RESTORE, wrap)


def _product(convert: Callable[[Any], Any]) -> Plant:
    """Matrix products of converted operands, forward and back."""

    def wrap(product: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, kernel, out: product(convert(x), convert(kernel), out).astype(out)

    return wrapped(f"{products.__name__}:matmul", wrap)


MUTANTS = [
    _mutant(
        "optimizer state not carried",
        "every step is Adam's first",
        edited(STEP, "opt_state=opt_state,", "opt_state=state.opt_state,"),
    ),
    _mutant(
        "steps not counted",
        "the first batch again and again",
        edited(STEP, "step=state.step + 1", "step=state.step"),
    ),
    _mutant(
        "batches counted from the chunk",
        "the second chunk begins with the first batch",
        edited(CHUNK, "first_step + jnp.arange(", "jnp.arange("),
    ),
    _mutant(
        "loss after the step",
        "of the parameters that the step has made",
        edited(
            STEP,
            "return replace(kept, healthy=healthy), loss",
            "return replace(kept, healthy=healthy),"
            " loss_and_gradients(kept, inputs, targets, accumulate_steps)[0]",
        ),
    ),
    _mutant(
        "gradients of the last step",
        "the update is taken from the state before: a step behind",
        edited(
            STEP,
            "optax.apply_updates(state.params, updates)",
            "optax.apply_updates(state.params,"
            " optimizer.update(grads, opt_state, state.params)[0])",
        ),
    ),
    _mutant(
        "matrix products in bfloat16",
        "an accelerator's default",
        _product(lambda x: x.astype(jnp.bfloat16)),
        "primitives",
    ),
    _mutant(
        "matrix products in float32",
        "float64 is dropped in silence",
        _product(lambda x: x.astype(jnp.float32)),
        "primitives",
    ),
    _mutant(
        "a resumed run counts from 0",
        "Adam's correction and the schedule begin again",
        _restored(
            lambda state, like: replace(
                state,
                opt_state=jax.tree.map(
                    jnp.copy, optax.tree_utils.tree_set(state.opt_state, count=jnp.int32(0))
                ),
            )
        ),
    ),
    _mutant(
        "a resumed run forgets its moments",
        "the optimizer begins anew",
        _restored(lambda state, like: replace(state, opt_state=like.opt_state)),
    ),
    _mutant(
        "a resumed run reads old batches",
        "the step number is lost",
        _restored(lambda state, like: replace(state, step=like.step)),
    ),
]

"""Faults of AdamW, its state, its schedule, and of clipping."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import optax

from jax_attn.training import optim
from parity_tests.suite.mutants.planting import Mutant, Plant, edited, noted, patched

MAKE = f"{optim.__name__}:make_optimizer"
SCHEDULE = f"{optim.__name__}:learning_rate_schedule"
CLIP = f"{optim.__name__}:clip_by_global_norm"


def _mutant(name: str, description: str, plant: Plant) -> Mutant:
    return Mutant(name, "optimizer", description, "optimizer", plant)


def adamw(make: Callable[..., Any]) -> Plant:
    """`optax.adamw` made by `make(rate, b1, b2, eps, weight_decay, mask)`."""

    def made(rate: Any, b1: Any, b2: Any, eps: Any, weight_decay: Any, mask: Any, **_: Any) -> Any:
        return make(rate, b1, b2, eps, weight_decay, mask)

    @contextmanager
    def plant() -> Iterator[None]:
        with noted(MAKE), mock.patch.object(optax, "adamw", made):
            yield

    return plant


def _penalty(rate: Any, b1: Any, b2: Any, eps: Any, decay: Any, mask: Any) -> Any:
    return optax.chain(optax.add_decayed_weights(decay, mask), optax.adam(rate, b1, b2, eps))


def _decay_unscaled(rate: Any, b1: Any, b2: Any, eps: Any, decay: Any, mask: Any) -> Any:
    return optax.chain(
        optax.scale_by_adam(b1, b2, eps),
        optax.scale_by_learning_rate(rate),
        optax.add_decayed_weights(-decay, mask),
    )


def _uncorrected(rate: Any, b1: Any, b2: Any, eps: Any, decay: Any, mask: Any) -> Any:
    adam = optax.scale_by_adam(b1, b2, eps)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        _, state = adam.update(updates, state, params)
        step = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), state.mu, state.nu)
        return step, state

    return optax.chain(
        optax.GradientTransformation(adam.init, update),
        optax.add_decayed_weights(decay, mask),
        optax.scale_by_learning_rate(rate),
    )


def _clip_each(limit: float) -> optax.GradientTransformation:
    """Every tensor by its own norm."""

    def one(g: Any) -> Any:
        return g * jnp.minimum(1.0, limit / (jnp.linalg.norm(g) + 1e-6))

    def init(params: Any) -> Any:
        del params
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        return jax.tree.map(one, updates), state

    return optax.GradientTransformation(init, update)


MUTANTS = [
    _mutant(
        "weight decay 1e-4",
        "optax's default",
        edited(MAKE, "weight_decay=config.weight_decay", "weight_decay=1e-4"),
    ),
    _mutant("decay as a penalty", "L2 added to the gradient: Adam, not AdamW", adamw(_penalty)),
    _mutant("decay not scaled", "by the learning rate", adamw(_decay_unscaled)),
    _mutant(
        "decay of everything",
        "biases and norms too, though asked to spare them",
        edited(MAKE, 'is_matrix if config.decay == "matrices" else None', "None"),
    ),
    _mutant(
        "decay of vectors",
        "the mask inverted",
        edited(MAKE, "jnp.ndim(p) >= 2", "jnp.ndim(p) < 2"),
    ),
    _mutant(
        "epsilon inside the root",
        "sqrt(v + eps)",
        edited(
            MAKE,
            "eps=config.epsilon,\n        eps_root=0.0",
            "eps=0.0,\n        eps_root=config.epsilon",
        ),
    ),
    _mutant(
        "Adam's epsilon 1e-6",
        "a constant of its own",
        edited(MAKE, "eps=config.epsilon", "eps=1e-6"),
    ),
    _mutant(
        "betas swapped",
        "beta2 for the mean, beta1 for the square",
        edited(
            MAKE,
            "b1=config.beta1,\n        b2=config.beta2",
            "b1=config.beta2,\n        b2=config.beta1",
        ),
    ),
    _mutant("no bias correction", "the first steps are too small", adamw(_uncorrected)),
    _mutant("Nesterov", "a look ahead", edited(MAKE, "nesterov=False", "nesterov=True")),
    _mutant(
        "mean in bfloat16",
        "the first moment is kept in 8 bits",
        edited(MAKE, "mu_dtype=None", "mu_dtype=jnp.bfloat16"),
    ),
    _mutant(
        "uphill",
        "the sign of the step",
        edited(
            MAKE,
            "learning_rate_schedule(config, learning_rate, steps)",
            "learning_rate_schedule(config, -learning_rate, steps)",
        ),
    ),
    _mutant("clipped by value", "each number by itself", patched(CLIP, optax.clip)),
    _mutant("clipped by tensor", "each by its own norm", patched(CLIP, _clip_each)),
    _mutant("clipped without 1e-6", "optax's own rule", patched(CLIP, optax.clip_by_global_norm)),
    _mutant(
        "always at the limit",
        "small gradients are scaled up to it",
        edited(
            CLIP,
            "jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6))",
            "max_norm / (optax.tree.norm(updates) + 1e-6)",
        ),
    ),
    _mutant(
        "clipped after Adam",
        "the update's norm, not the gradient's",
        edited(
            MAKE,
            "optax.chain(clip_by_global_norm(config.clip_norm), adamw)",
            "optax.chain(adamw, clip_by_global_norm(config.clip_norm))",
        ),
    ),
    _mutant(
        "schedule a step ahead",
        "the count starts at 1",
        edited(
            SCHEDULE, "after(jnp.asarray(count, float))", "after(jnp.asarray(count + 1, float))"
        ),
    ),
    _mutant(
        "cosine to zero",
        "final_fraction unread",
        edited(SCHEDULE, "alpha=config.final_fraction", "alpha=0.0"),
    ),
    _mutant(
        "cosine over all steps",
        "the warm-up's are not subtracted",
        edited(SCHEDULE, "max(steps - warmup, 1)", "steps"),
    ),
    _mutant(
        "learning rate in float32",
        "in a float64 run too",
        edited(SCHEDULE, "jnp.asarray(count, float)", "jnp.asarray(count, jnp.float32)"),
    ),
]

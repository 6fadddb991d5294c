"""Faults of dropout: what is kept, where it stands, when it is on, which masks it takes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jax_attn.models import gpt
from jax_attn.nn import attention, dropout
from jax_attn.training import evaluation, step
from parity_tests.suite.mutants.planting import Mutant, Plant, edited, wrapped

LAYER = f"{dropout.__name__}:dropout"
MULTI = f"{attention.__name__}:MultiHeadAttention.__call__"


def _mutant(name: str, description: str, plant: Plant) -> Mutant:
    return Mutant(name, "dropout", description, "dropout", plant)


def odd_dropout(compute: Callable[[Any, Any, float], Any]) -> Plant:
    """In training, `compute(layer, x, rate)`."""

    class OddDropout(nnx.Dropout):
        def __call__(self, x: Any, **_: Any) -> Any:
            return x if self.rate == 0 or self.deterministic else compute(self, x, self.rate)

    def wrap(make: Callable[..., nnx.Dropout]) -> Callable[..., nnx.Dropout]:
        def made(*args: Any) -> nnx.Dropout:
            layer = make(*args)
            layer.__class__ = OddDropout
            return layer

        return made

    return wrapped(LAYER, wrap)


def _kept(layer: Any, x: Any, probability: float, shape: Any = None) -> Any:
    return jax.random.bernoulli(layer.rngs(), probability, x.shape if shape is None else shape)


def _one_key(layer: Any, x: Any, rate: float) -> Any:
    kept = jax.random.bernoulli(jax.random.key(0), 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0)


def _one_row(layer: Any, x: Any, rate: float) -> Any:
    kept = _kept(layer, x, 1 - rate, (1, *x.shape[1:]))
    return jnp.where(kept, x / (1 - rate), 0)


MUTANTS = [
    _mutant(
        "kept and dropped swapped",
        "a rate of 0.2 drops 80 %",
        odd_dropout(lambda d, x, p: jnp.where(_kept(d, x, p), x / (1 - p), 0)),
    ),
    _mutant(
        "not scaled up",
        "1/(1 - p) is missing",
        odd_dropout(lambda d, x, p: jnp.where(_kept(d, x, 1 - p), x, 0)),
    ),
    _mutant(
        "scaled by 1/p",
        "the wrong probability",
        odd_dropout(lambda d, x, p: jnp.where(_kept(d, x, 1 - p), x / p, 0)),
    ),
    _mutant("one key for ever", "every mask is the same", odd_dropout(_one_key)),
    _mutant("one mask for all rows", "of a batch", odd_dropout(_one_row)),
    _mutant(
        "on from the start",
        "flax's default: a fresh model drops",
        edited(LAYER, "deterministic=True", "deterministic=False"),
    ),
    _mutant(
        "on in evaluation",
        "evaluate takes the model as it is",
        edited(f"{evaluation.__name__}:_loss_of_windows", "model.eval()", "pass"),
    ),
    _mutant(
        "on in estimates",
        "estimate_loss takes the model as it is",
        edited(f"{evaluation.__name__}:_loss_of_batch", "model.eval()", "pass"),
    ),
    _mutant(
        "off in training",
        "nobody calls train()",
        edited(f"{step.__name__}:loss_and_gradients", "model.train()", "pass"),
    ),
    _mutant(
        "the model's mode changed",
        "evaluate leaves the caller's model in evaluation",
        edited(
            f"{evaluation.__name__}:evaluate",
            "graphdef, state = nnx.split(model)",
            "model.eval()\n    graphdef, state = nnx.split(model)",
        ),
    ),
    _mutant(
        "streams stand still",
        "every step takes the masks of the first: the key is baked in",
        edited(
            f"{step.__name__}:train_step",
            "opt_state=opt_state, rest=rest",
            "opt_state=opt_state",
        ),
    ),
    _mutant(
        "none on the weights",
        "training takes the fused kernel, which drops nothing",
        edited(MULTI, "self.attention_dropout.rate > 0 and", "False and"),
    ),
    _mutant(
        "none on the output",
        "of attention",
        edited(MULTI, "self.output_dropout(self.proj(joined))", "self.proj(joined)"),
    ),
    _mutant(
        "none on the feed-forward",
        "its output is kept whole",
        edited(f"{gpt.__name__}:FeedForward.__call__", "self.dropout(", "("),
    ),
    _mutant(
        "on the scores' side",
        "queries are dropped in the place of weights",
        edited(
            MULTI,
            "attend(self.attention_dropout(weights), value)",
            "attend(weights, self.attention_dropout(value))",
        ),
    ),
    _mutant(
        "before the projection",
        "the joined heads are dropped, not the branch",
        edited(
            MULTI,
            "self.output_dropout(self.proj(joined))",
            "self.proj(self.output_dropout(joined))",
        ),
    ),
]

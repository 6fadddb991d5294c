"""Training: a pure step, and many steps in one compiled program.

The model's object graph is taken apart once, outside the compiled loop; inside there are only
arrays. Batches and dropout depend on (seed, step) alone, so the length of a chunk and the moments
of logging and evaluation change no bit of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Integer

from jax_attn.compiling.options import compiled
from jax_attn.domains import SIZE
from jax_attn.errors import InputError
from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.models.gpt import GPT
from jax_attn.nn.inputs import check_logits, check_model
from jax_attn.nn.loss import IGNORE, next_token_loss_sum
from jax_attn.training.batches import Batches

Model = Callable[[Array], Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a step reads and writes. `graphdef` is the model's structure, not data.

    A pytree, whose leaves JAX replaces by placeholders at times: hence no array annotations.
    """

    step: Any  # int32 []: optimizer steps done
    params: Any  # nnx.State of the trainable parameters
    opt_state: Any  # of optax
    rest: Any  # nnx.State of everything else: the dropout streams and their counters
    healthy: Any  # bool []: False once a step met a loss or gradient that is not finite
    graphdef: Any = field(metadata={"static": True})

    @classmethod
    def create(cls, model: nnx.Module, optimizer: optax.GradientTransformation) -> TrainState:
        """State before the first step; shares no array with `model`, so it may be donated."""
        check_model(model)
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        params, rest, opt_state = _copies_and_moments(params, rest, optimizer)
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=opt_state,
            rest=rest,
            healthy=jnp.array(True),
            graphdef=graphdef,
        )

    def model(self) -> Any:
        """The model with this state's parameters, dropout off. Holds the arrays, not copies."""
        return nnx.merge(self.graphdef, self.params, self.rest)


@partial(jax.jit, static_argnames="optimizer")
def _copies_and_moments(params, rest, optimizer):
    """Both copied, and the optimizer's first state: one program in the place of one a shape."""
    params, rest = jax.tree.map(jnp.copy, (params, rest))
    return params, rest, optimizer.init(params)


def loss_fn(model: Model, inputs: Integer[Array, "B T"], targets: Integer[Array, "B T"]):
    """Sum of the losses in nats and the number of targets that count."""
    if isinstance(model, GPT | BigramLanguageModel):
        return model.loss_sum(inputs, targets)
    return next_token_loss_sum(check_logits(model(inputs), inputs), targets)


def loss_and_gradients(
    state: TrainState,
    inputs: Integer[Array, "B T"],
    targets: Integer[Array, "B T"],
    accumulate_steps: int = 1,
) -> tuple[Float[Array, ""], Any, Any]:
    """Mean loss in nats per token, its gradients, and the advanced dropout streams.

    With `accumulate_steps` above 1 the batch is taken in as many parts, each of which gives its
    share of the whole batch's mean: the result is that of the whole batch, up to rounding, but for
    dropout, which every part draws for itself.
    """
    if inputs.shape[0] % SIZE.check("accumulate_steps", accumulate_steps):
        raise InputError(
            f"{inputs.shape[0]} sequences are not divisible by accumulate_steps {accumulate_steps}"
        )
    n_counted = (targets != IGNORE).sum(dtype=jnp.int32)

    def of_part(rest, part):
        def share(params):
            # Copied, because the dropout counters may only be advanced by the trace that made them.
            model = nnx.merge(state.graphdef, params, rest, copy=True)
            model.train()  # dropout on; this model lives for the trace only
            total, _ = loss_fn(model, *part)
            return total / n_counted, nnx.state(model, nnx.Not(nnx.Param))

        (loss, rest), grads = jax.value_and_grad(share, has_aux=True)(state.params)
        return rest, (loss, grads)

    if accumulate_steps == 1:
        rest, (loss, grads) = of_part(state.rest, (inputs, targets))
    else:
        parts = jax.tree.map(
            lambda x: x.reshape(accumulate_steps, -1, x.shape[-1]), (inputs, targets)
        )

        def add(carry, part):
            rest, shares = carry
            rest, more = of_part(rest, part)
            return (rest, jax.tree.map(jnp.add, shares, more)), None

        shapes = jax.eval_shape(of_part, state.rest, jax.tree.map(lambda x: x[0], parts))[1]
        nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (rest, (loss, grads)), _ = jax.lax.scan(add, (state.rest, nothing), parts)

    return loss, grads, rest


def train_step(
    state: TrainState,
    inputs: Integer[Array, "B T"],
    targets: Integer[Array, "B T"],
    optimizer: optax.GradientTransformation,
    accumulate_steps: int = 1,
) -> tuple[TrainState, Float[Array, ""]]:
    """One optimizer step, dropout on: the new state, and the loss before it in nats per token.

    When the loss or a gradient is not finite, nothing of the state changes but `healthy`, which
    becomes False; from then on every step leaves the state as it is. Whether the new parameters are
    finite is not looked at: keep an optimizer of your own to what `TrainConfig` admits.
    """
    loss, grads, rest = loss_and_gradients(state, inputs, targets, accumulate_steps)
    # Both are known before the update, so that choosing between old and new takes no second pass
    # over the state; the learning rates that `TrainConfig` admits lead from there to finite
    # parameters. Squared, because a gradient that AdamW cannot square is as bad; and a sum, because
    # XLA's CPU compiler would write down all the squares of a norm first. Gradients of vectors are
    # sums over a batch; held back, for XLA would put these and theirs into one, over the batch.
    vectors = jax.tree.map(lambda g: jax.lax.optimization_barrier(g) if g.ndim < 2 else g, grads)
    gradient_sum = optax.tree.sum(vectors)
    healthy = state.healthy & jnp.isfinite(loss) & jnp.isfinite(gradient_sum * gradient_sum)

    def stepped(state):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return replace(state, step=state.step + 1, params=params, opt_state=opt_state, rest=rest)

    kept = _applied_if(healthy, stepped, state)
    return replace(kept, healthy=healthy), loss


def _applied_if(healthy: Bool[Array, ""], function: Callable[[Any], Any], old: Any) -> Any:
    """`function(old)` or else `old`.

    On a CPU by a branch: outside one, XLA's compiler there would compute the new moments twice, the
    second time for the parameters, and to have the old ones for that, copy all of them before every
    step. For a branch on a GPU the host would wait; accelerators choose number by number.
    """

    def branch(healthy, old):
        return jax.lax.cond(healthy, function, lambda old: old, old)

    def choice(healthy, old):
        return jax.tree.map(partial(jnp.where, healthy), function(old), old)

    return jax.lax.platform_dependent(healthy, old, cpu=branch, default=choice)


@compiled(
    training=True,
    static_argnames=("optimizer", "n_steps", "accumulate_steps"),
    donate_argnames="state",
)
def train_chunk(
    state: TrainState,
    batches: Batches,
    optimizer: optax.GradientTransformation,
    n_steps: int,
    accumulate_steps: int = 1,
    count: Int[ArrayLike, ""] | None = None,
) -> tuple[TrainState, Float[Array, " n_steps"]]:
    """`n_steps` steps as one compiled program, and the loss of each. `state` is donated: gone.

    `count` makes it so many of them, from 0 to `n_steps`: one program for chunks of all lengths.
    The losses after those are 0.
    """
    SIZE.check("n_steps", n_steps)
    # Drawn for all steps at once: a draw is a hundred operations, for one step as for many, and
    # takes as long as the rest of a small model's step.
    first_step = state.step
    inputs, targets = jax.vmap(batches.batch)(first_step + jnp.arange(n_steps, dtype=jnp.int32))

    def body(i, carry):
        state, losses = carry
        row = state.step - first_step
        state, loss = train_step(state, inputs[row], targets[row], optimizer, accumulate_steps)
        return state, losses.at[i].set(loss)

    # XLA dissolves a loop that it knows to be short, fuses its step otherwise than in a long one,
    # and rounds differently. It is kept from knowing, so that no chunk length changes any bit.
    if count is None:
        count = jax.lax.optimization_barrier(jnp.int32(n_steps))
    return jax.lax.fori_loop(0, count, body, (state, jnp.zeros(n_steps)))

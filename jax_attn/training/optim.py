"""AdamW with torch's numbers, its learning-rate schedule and clipping."""

import jax
import jax.numpy as jnp
import optax

from jax_attn.config import OptimizerConfig
from jax_attn.domains import FINITE, POSITIVE, SIZE


def learning_rate_schedule(
    config: OptimizerConfig, learning_rate: float, steps: int
) -> optax.Schedule:
    """Learning rate of step 0, 1, 2, …: linear warm-up, then constant or cosine.

    Of W steps of warm-up the first has 1/W of the learning rate and the last has all of it. The
    cosine ends at `final_fraction * learning_rate` after `steps` steps, where it stays; a
    `schedule_steps` in `config` takes the place of `steps`. InputError for a learning rate that is
    not finite, and for steps below 1.
    """
    learning_rate = FINITE.check("learning_rate", learning_rate)
    steps = SIZE.check("steps", steps)
    steps = config.schedule_steps or steps
    warmup = min(config.warmup_steps, steps)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(
            learning_rate, max(steps - warmup, 1), alpha=config.final_fraction
        )
    else:
        after = optax.constant_schedule(learning_rate)
    if warmup:
        rise = optax.linear_schedule(0.0, learning_rate, warmup)
        after = optax.join_schedules([lambda count: rise(count + 1), after], [warmup])
    # optax divides the count, and JAX's int32 / int is float32 even in a float64 run.
    return lambda count: after(jnp.asarray(count, float))


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """torch's `clip_grad_norm_`: gradients times min(1, max_norm / (norm + 1e-6)).

    optax's own leaves out the 1e-6.
    """
    max_norm = POSITIVE.check("max_norm", max_norm)

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params
        factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return optax.GradientTransformation(init, update)


def make_optimizer(
    config: OptimizerConfig, learning_rate: float, steps: int
) -> optax.GradientTransformation:
    """Clipping, then AdamW, for a run of `steps` steps; every number written out.

    The same map as `torch.optim.AdamW`: optax's defaults differ in the weight decay (1e-4 against
    1e-2). optax computes the bias correction in float32, which makes float32 updates differ from
    torch's by about 1e-5 relative in the first hundred steps.
    """

    def is_matrix(params):
        return jax.tree.map(lambda p: jnp.ndim(p) >= 2, params)

    adamw = optax.adamw(
        learning_rate_schedule(config, learning_rate, steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        eps_root=0.0,
        mu_dtype=None,
        weight_decay=config.weight_decay,
        mask=is_matrix if config.decay == "matrices" else None,
        nesterov=False,
    )
    if config.clip_norm > 0:
        return optax.chain(clip_by_global_norm(config.clip_norm), adamw)
    return adamw

"""The optimizer as a map: parameters, gradients and state in; update and state out.

Updates are compared, never parameters after a small step: beside a parameter of size 1 a step of
1e-3 in the wrong direction is a small relative difference.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import jax_attn
import jax_attn.training.optim
from parity_tests.harness.budgets import FORWARD, UPDATE
from parity_tests.suite.tiers import Arrays, Checks, assert_all, both_tiers, semantic

LEARNING_RATE = 0.07  # large, so that rounding the parameters does not drown the update
STEPS = 1500
SHAPES = {"matrix": (5, 7), "embedding": (11, 3), "bias": (7,), "scale": (13,), "number": ()}

CONFIGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "strong decay": {"weight_decay": 0.3, "beta1": 0.8, "beta2": 0.95},
    "large epsilon": {"epsilon": 0.03, "weight_decay": 0.0},
    "decay of matrices": {"weight_decay": 0.3, "decay": "matrices"},
    "clipped": {"clip_norm": 0.5, "epsilon": 1e-3},
    "clip unused": {"clip_norm": 1e4, "epsilon": 1e-3},
    "cosine": {"schedule": "cosine", "warmup_steps": 3, "final_fraction": 0.1},
    "warm-up alone": {"warmup_steps": 20},
    "everything": {
        "beta1": 0.7,
        "beta2": 0.97,
        "epsilon": 1e-4,
        "weight_decay": 0.2,
        "decay": "matrices",
        "clip_norm": 0.5,
        "schedule": "cosine",
        "warmup_steps": 5,
        "final_fraction": 0.2,
    },
}


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    for name, fields in CONFIGS.items():
        config = jax_attn.OptimizerConfig(**fields)
        for t in (1, 2, 10, 1000):
            yield from both_tiers(
                f"{name}, t={t}",
                lambda a, c=config, t=t: reference_step(a, c, t),
                lambda a, c=config, t=t: port_step(a, c, t),
                draw(rng),
                budget=UPDATE,
            )
    yield from clipping_checks(rng)
    yield from schedule_checks()


def draw(rng: np.random.Generator) -> Arrays:
    """Gradients over nine orders of magnitude, so that epsilon matters for some.

    A lone number has one of size 1: its update must not vanish in the rounding of the parameter.
    """

    def sizes(shape: tuple[int, ...]) -> Any:
        return np.exp(rng.uniform(-16, 5, shape)) if shape else 1.0

    signs = {name: rng.choice([-1.0, 1.0], shape) for name, shape in SHAPES.items()}
    gradients = {name: sign * sizes(sign.shape) for name, sign in signs.items()}
    return {
        # Small, so that the update is not lost in rounding the parameter that it is read off.
        "params": {name: 0.03 * rng.normal(size=shape) for name, shape in SHAPES.items()},
        "gradients": gradients,
        "mean": {k: g * rng.uniform(0.5, 2, g.shape) for k, g in gradients.items()},
        "square": {k: g**2 * rng.uniform(0.5, 2, g.shape) for k, g in gradients.items()},
    }


def reference_step(arrays: Any, config: jax_attn.OptimizerConfig, t: int) -> dict[str, Any]:
    """Step number t of torch's AdamW, its scheduler and clipping, from the given state."""
    params = {name: value.requires_grad_() for name, value in arrays["params"].items()}
    groups = [
        {"params": [p], "weight_decay": 0.0 if spared(config, p.ndim) else config.weight_decay}
        for p in params.values()
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=learning_rate_at(config, LEARNING_RATE, STEPS, t - 1),
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
    )
    before = {name: p.detach().clone() for name, p in params.items()}
    for name, p in params.items():
        p.grad = arrays["gradients"][name]
        if t > 1:
            optimizer.state[p] = {
                "step": torch.tensor(float(t - 1)),
                "exp_avg": arrays["mean"][name],
                "exp_avg_sq": arrays["square"][name],
            }
    if config.clip_norm:
        torch.nn.utils.clip_grad_norm_(params.values(), config.clip_norm)
    optimizer.step()
    state = {name: optimizer.state[p] for name, p in params.items()}
    return {
        "update": {name: params[name].detach() - before[name] for name in params},
        "mean": {name: state[name]["exp_avg"] for name in params},
        "square": {name: state[name]["exp_avg_sq"] for name in params},
        "count": state["matrix"]["step"].to(torch.int32),
    }


def port_step(arrays: Any, config: jax_attn.OptimizerConfig, t: int) -> dict[str, Any]:
    optimizer = jax_attn.make_optimizer(config, LEARNING_RATE, STEPS)
    state = optimizer.init(arrays["params"])
    if t > 1:
        state = optax.tree_utils.tree_set(
            state, count=jnp.int32(t - 1), mu=arrays["mean"], nu=arrays["square"]
        )
    update, state = optimizer.update(arrays["gradients"], state, arrays["params"])
    counts = {int(count) for _, count in optax.tree_utils.tree_get_all_with_path(state, "count")}
    return {
        "update": update,
        "mean": optax.tree_utils.tree_get(state, "mu"),
        "square": optax.tree_utils.tree_get(state, "nu"),
        "count": jnp.int32(counts.pop() if len(counts) == 1 else -1),
    }


def spared(config: jax_attn.OptimizerConfig, ndim: int) -> bool:
    return config.decay == "matrices" and ndim < 2


def learning_rate_at(
    config: jax_attn.OptimizerConfig, learning_rate: float, steps: int, step: int
) -> float:
    """Of step 0, 1, 2, … of `steps`, in plain Python."""
    if step < config.warmup_steps:
        return learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return learning_rate
    done = (step - config.warmup_steps) / (steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return learning_rate * (config.final_fraction + (1 - config.final_fraction) * cosine)


def clipping_checks(rng: np.random.Generator) -> Checks:
    """Norms above and below the limit, and small ones, where torch's 1e-6 is seen."""
    for size, limit in ((3.0, 0.5), (3.0, 1e4), (1e-6, 1e-6)):
        yield from both_tiers(
            f"gradients of {size:g} clipped to {limit:g}",
            lambda a, limit=limit: reference_clip(a["gradients"], limit),
            lambda a, limit=limit: port_clip(a["gradients"], limit),
            {"gradients": {k: rng.normal(size=s) * size for k, s in SHAPES.items()}},
            budget=FORWARD,
        )


def reference_clip(gradients: dict[str, torch.Tensor], limit: float) -> dict[str, Any]:
    params = {name: torch.zeros_like(g).requires_grad_() for name, g in gradients.items()}
    for name, p in params.items():
        p.grad = gradients[name].clone()
    torch.nn.utils.clip_grad_norm_(params.values(), limit)
    return {name: p.grad for name, p in params.items()}


def port_clip(gradients: dict[str, jax.Array], limit: float) -> Any:
    clip = jax_attn.training.optim.clip_by_global_norm(limit)
    return clip.update(gradients, clip.init(gradients))[0]


def schedule_checks() -> Checks:
    """The learning rate of every step, past the end too, as torch's schedulers step."""
    for name in ("defaults", "cosine", "warm-up alone", "everything"):
        config = jax_attn.OptimizerConfig(**CONFIGS[name])
        steps = np.array([*range(30), *range(30, STEPS, 37), STEPS - 1, STEPS, STEPS + 9])
        yield semantic(
            f"learning rate, {name}",
            lambda a, c=config: scheduled(c)[a["steps"]],
            lambda a, c=config: port_rates(c, a["steps"]),
            {"steps": steps.astype(np.int32)},
        )


def scheduled(config: jax_attn.OptimizerConfig) -> torch.Tensor:
    """What a LambdaLR makes of the formula when it is stepped after the optimizer."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_at(config, 1.0, STEPS, step)
    )
    rates = []
    for _ in range(STEPS + 10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return torch.tensor(rates, dtype=torch.float64)


def port_rates(config: jax_attn.OptimizerConfig, steps: jax.Array) -> jax.Array:
    schedule = jax_attn.learning_rate_schedule(config, LEARNING_RATE, STEPS)
    return jnp.stack([jnp.asarray(schedule(step), float) for step in steps])


def test_checks():
    assert_all(checks(0))

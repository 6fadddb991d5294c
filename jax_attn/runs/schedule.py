"""What becomes of the learning rate when a run goes on with other totals, in a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from jax_attn.config import TrainConfig
from jax_attn.training.optim import learning_rate_schedule


def about_schedule(old: TrainConfig, new: TrainConfig, done: int) -> Iterator[str]:
    """Of a run that has made `done` steps under `old` and goes on under `new`: a line, or none."""
    old_length, length = (c.optimizer.schedule_steps or c.steps for c in (old, new))
    if not new.optimizer.depends_on(min(old.steps, new.steps)):
        return
    if length != old_length:
        yield (
            f"schedule of {length:,} steps instead of {old_length:,}: at step {done:,} the "
            f"learning rate goes from {_rate(old, done):.3g} to {_rate(new, done, length):.3g}"
        )
    elif new.steps != old.steps:
        stays = length < new.steps
        ends = _rate(new, length) if stays else _rate(new, new.steps - 1)
        yield (
            f"the learning rate keeps its schedule of {length:,} steps and "
            + (f"stays at {ends:.3g} from there" if stays else f"ends at {ends:.3g}")
            + f"; --schedule-steps {new.steps} {'stretches' if stays else 'shortens'} it: at step "
            f"{done:,} from {_rate(new, done):.3g} to {_rate(new, done, new.steps):.3g}"
        )


def _rate(config: TrainConfig, step: int, length: int | None = None) -> float:
    """Learning rate of a step, by the schedule of `length` steps or of its own."""
    optimizer = config.optimizer
    if length is not None:
        optimizer = dataclasses.replace(optimizer, schedule_steps=length)
    schedule = learning_rate_schedule(optimizer, config.learning_rate, config.steps)
    return float(np.asarray(schedule(step)))

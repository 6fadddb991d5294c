"""A run's programs, compiled by threads while it initialises its state and trains."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import optax

from jax_attn.config import TrainConfig
from jax_attn.report import compile_sampling, compile_split_evaluation
from jax_attn.training import Batches, TrainState, train_chunk


def compile_training(
    state: TrainState,
    batches: Batches,
    optimizer: optax.GradientTransformation,
    n_steps: int,
    accumulate_steps: int,
) -> tuple[jax.stages.Compiled, float]:
    """The program of `n_steps` steps, and the seconds it took."""
    begun = time.perf_counter()
    lowered = train_chunk.lower(state, batches, optimizer, n_steps, accumulate_steps)
    return lowered.compile(), time.perf_counter() - begun


class CompiledAhead:
    """The programs of training, evaluation and sampling, made from the `shapes` of a state.

    What compiling raised is raised where the program is asked for.
    """

    def __init__(
        self,
        shapes: TrainState,
        batches: Batches,
        optimizer: optax.GradientTransformation,
        n_steps: int,
        config: TrainConfig,
    ) -> None:
        threads = ThreadPoolExecutor(2)  # training in one, the smaller programs in the other
        self.training: Future[tuple[Any, float]] = threads.submit(
            compile_training, shapes, batches, optimizer, n_steps, config.accumulate_steps
        )
        self._others = [
            threads.submit(compile_others, shapes.model(), config)
            for compile_others in (compile_split_evaluation, compile_sampling)
        ]
        threads.shutdown(wait=False)  # they end after the last program

    def wait(self) -> None:
        """Until evaluation and sampling will find their programs."""
        for program in self._others:
            program.result()

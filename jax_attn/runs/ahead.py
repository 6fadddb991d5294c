"""A run's programs, compiled by threads while it initialises its state and trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import optax

from jax_attn.compiling.precision import products
from jax_attn.config import TrainConfig
from jax_attn.nn.flash import accelerator
from jax_attn.runs.report import compile_sampling, compile_split_evaluation
from jax_attn.training.batches import Batches
from jax_attn.training.step import TrainState, train_chunk


def compile_training(
    state: TrainState,
    batches: Batches,
    optimizer: optax.GradientTransformation,
    n_steps: int,
    accumulate_steps: int,
) -> tuple[jax.stages.Compiled, float]:
    """The program of up to `n_steps` steps, which it is told, and the seconds that it took."""
    begun = time.perf_counter()
    count = np.int32(n_steps)
    lowered = train_chunk.lower(state, batches, optimizer, n_steps, accumulate_steps, count)
    return lowered.compile(), time.perf_counter() - begun


def smaller_programs() -> tuple[Callable[[Any, TrainConfig], Any], ...]:
    """What compiles those that are made beside the training program: on a GPU none.

    Their kernels are chosen there by stopwatch, which nothing else may disturb: they are compiled
    when they are used. The training program's are not (`GPU_TRAINING_OPTIONS`).
    """
    device = accelerator()
    if device is not None and device.platform in ("cuda", "rocm"):
        return ()
    return compile_split_evaluation, compile_sampling


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

        def submit(compile_one: Callable[..., Any], *arguments: Any) -> Future[Any]:
            def with_the_runs_products() -> Any:
                with products(config):
                    return compile_one(*arguments)

            return threads.submit(with_the_runs_products)

        self.training: Future[tuple[Any, float]] = submit(
            compile_training, shapes, batches, optimizer, n_steps, config.accumulate_steps
        )
        self._others = [
            submit(compile_one, shapes.model(), config) for compile_one in smaller_programs()
        ]
        threads.shutdown(wait=False)  # they end after the last program

    def wait(self) -> None:
        """Until evaluation and sampling will find the programs that are made for them."""
        for program in self._others:
            program.result()

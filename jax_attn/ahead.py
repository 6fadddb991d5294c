"""What a run needs beside its training program, compiled meanwhile by a thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax

from jax_attn.config import TrainConfig
from jax_attn.report import (
    compile_sampling,
    compile_split_evaluation,
    whole_training_split_is_cheap,
)
from jax_attn.training import TrainState


def compile_ahead(
    state: TrainState, train_tokens: jax.Array, validation_tokens: jax.Array, config: TrainConfig
) -> Callable[[], None]:
    """Begins with the programs of evaluation and of the sample.

    They are made from the shapes of the state, whose arrays each chunk of training takes away.
    Returns a function that waits for them, and raises what compiling them raised.
    """
    model = jax.eval_shape(lambda state: state, state).model()
    thread = ThreadPoolExecutor(1)
    programs = [thread.submit(compile_split_evaluation, model, validation_tokens, config)]
    if whole_training_split_is_cheap(model, train_tokens):
        programs.append(thread.submit(compile_split_evaluation, model, train_tokens, config))
    programs.append(thread.submit(compile_sampling, model, config))
    thread.shutdown(wait=False)  # it ends after the last of them

    def wait() -> None:
        for program in programs:
            program.result()

    return wait

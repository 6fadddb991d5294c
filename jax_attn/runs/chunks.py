"""Where a run's chunks end: the steps that its training program makes at a time.

A chunk ends wherever an evaluation or a checkpoint is due, and as often in between as half a
second's worth of steps asks for. That is a matter of the step alone: a run that was stopped ends
its chunks, each of which is a line of `metrics.jsonl`, where one left alone does.
"""

from __future__ import annotations

from jax_attn.config import GPTShape, TrainConfig

CHUNK_SECONDS = 0.5  # how long a chunk should take, roughly
MAX_CHUNK_STEPS = 200


def most_steps(config: TrainConfig, n_parameters: int, platform: str) -> int:
    """How many steps take about CHUNK_SECONDS; at least 1, at most MAX_CHUNK_STEPS."""
    if config.rng == "torch" and isinstance(config.model, GPTShape):
        return 1  # the lecture's gpt.py estimates its losses before the last step, too
    flops = 6 * n_parameters * config.batch_size * config.block_size
    flops_per_second = 1e11 if platform == "cpu" else 1e14
    return min(MAX_CHUNK_STEPS, max(1, int(CHUNK_SECONDS * flops_per_second / flops)))


def longest_chunk(config: TrainConfig, most: int) -> int:
    """The steps that the training program needs room for."""
    return min(most, config.steps, config.eval_every, config.checkpoint_every)


def chunk_end(config: TrainConfig, most: int, step: int) -> int:
    """The step before which the chunk that begins at `step` ends.

    From one evaluation or checkpoint to the next, chunks of at most `most` steps are as few and as
    equal as can be: of 1,000 steps by 150 at most they are 7 of 142 or 143.
    """
    cadences = config.eval_every, config.checkpoint_every
    begin = max(step // every * every for every in cadences)
    end = min((step // every + 1) * every for every in cadences)
    length = end - begin
    parts = -(-length // most)
    # Part k ends at begin + length * k // parts: the first k for which that is past `step`.
    k = -(-(step - begin + 1) * parts // length)
    return min(begin + length * k // parts, config.steps)

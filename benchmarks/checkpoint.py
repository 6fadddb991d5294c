"""How long saving keeps training waiting: `python -m benchmarks.checkpoint`.

The lecture's model, 10.8 M parameters, is trained in chunks, saving after some of them. What saving
costs is the time that `save` holds up the loop, and what its background work takes from the chunks
that run meanwhile. The batch is 8 rows: with the preset's 64 a step takes longer, and saving weighs
less.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jax_attn as ja
from benchmarks.estimate import about, read_command_line
from jax_attn.runs.checkpoint import Checkpoints
from jax_attn.runs.run import Run


@dataclass(frozen=True)
class Stall:
    """Seconds, medians over the saves."""

    step_s: float  # one training step, nothing being saved
    save_s: float  # `save` holds up the loop for so long
    slowed_s: float  # the chunk after a save takes so much longer than others
    background_s: float  # from `save` to the complete checkpoint
    checkpoint_every: int  # steps between saves, as the preset has it

    @property
    def fraction(self) -> float:
        """Of the training time, at the preset's cadence."""
        return (self.save_s + self.slowed_s) / (self.checkpoint_every * self.step_s)


PRESET, BATCH_SIZE, CHUNK_STEPS, SAVES = "lecture", 8, 4, 5


def measure() -> Stall:
    """Trains chunks with a save after every second one; the first save is not counted."""
    config = ja.PRESETS[PRESET][1]
    corpus = ja.load_corpus(config.data, warn=print)
    config = replace(config, data=corpus.name, batch_size=BATCH_SIZE, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", config, corpus)
        optimizer, state = run.optimizer(), run.fresh()
        batches = ja.RandomBatches(
            jnp.asarray(corpus.train), jax.random.key(0), config.batch_size, config.block_size
        )
        chunk = ja.train_chunk.lower(state, batches, optimizer, CHUNK_STEPS).compile()
        checkpoints = Checkpoints(run)

        def timed_chunk(state: ja.TrainState) -> tuple[ja.TrainState, float]:
            begun = time.perf_counter()
            state, losses = chunk(state, batches)
            losses.block_until_ready()
            return state, time.perf_counter() - begun

        state, _ = timed_chunk(state)
        quiet, saving, slowed, background = [], [], [], []
        for _ in range(SAVES + 1):
            state, seconds = timed_chunk(state)
            quiet.append(seconds)
            begun = time.perf_counter()
            checkpoints.save(state)
            saving.append(time.perf_counter() - begun)
            state, seconds = timed_chunk(state)
            slowed.append(seconds)
            checkpoints.finish_writing()
            background.append(time.perf_counter() - begun)
        checkpoints.close()
    quiet_s = float(np.median(quiet[1:]))
    return Stall(
        step_s=quiet_s / CHUNK_STEPS,
        save_s=float(np.median(saving[1:])),
        slowed_s=float(np.median(slowed[1:])) - quiet_s,
        background_s=float(np.median(background[1:])),
        checkpoint_every=config.checkpoint_every,
    )


@dataclass(frozen=True)
class Arguments:
    """How long saving the lecture's model keeps its training waiting."""


def main() -> None:
    read_command_line(Arguments, "checkpoint")
    print(about("checkpoint"), flush=True)
    stall = measure()
    print(f"device                     {jax.devices()[0].device_kind}")
    print(f"a training step            {stall.step_s * 1e3:10.1f} ms")
    print(f"save holds up the loop     {stall.save_s * 1e3:10.1f} ms")
    print(f"the chunk meanwhile, more  {stall.slowed_s * 1e3:10.1f} ms")
    print(f"complete after             {stall.background_s * 1e3:10.1f} ms")
    print(
        f"at one checkpoint in {stall.checkpoint_every} steps: "
        f"{100 * stall.fraction:.3f} % of the training time"
    )


if __name__ == "__main__":
    main()

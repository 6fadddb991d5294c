"""When a run has too little memory: what it went to, and which of its settings take less."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import jax
import numpy as np

from jax_attn.config import GPTShape, TrainConfig
from jax_attn.console import is_out_of_memory, out_of_memory
from jax_attn.errors import InputError
from jax_attn.runs.commands import resume_command
from jax_attn.runs.device_choices import kept_bytes
from jax_attn.runs.run import Run

MOST_PARTS = 1 << 16  # of a batch, that are looked at


@contextlib.contextmanager
def memory_explained(run: Run) -> Iterator[None]:
    """Turns too little memory, the device's or the host's, into an InputError with the remedies."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        where = _where(run)
        remedies = _remedies(run.config)
        if any(run.checkpoints_path.glob("*")):
            go_on = (
                f"go on where there is more memory with: {resume_command(run.path)}, or "
                f"begin a run that takes less: {remedies}"
            )
        else:
            go_on = f"to take less: {remedies}"
        raise InputError(f"{out_of_memory(error)}: {where}; {go_on}") from error


def _where(run: Run) -> str:
    """The two largest parts; estimates, but for the first."""
    config = run.config
    arrays = [x for x in jax.tree.leaves(run.shapes()) if isinstance(x.dtype, np.dtype)]  # no keys
    state = sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)
    rows = config.batch_size // max(1, config.accumulate_steps)
    if isinstance(config.model, GPTShape):
        kept = rows * kept_bytes(config, config.model)
        what = "keep for the derivative"
        if config.remat:
            kept, what = kept // config.model.n_layer, "take in a block"
    else:
        kept, what = rows * config.block_size * run.tokenizer.vocab_size * 4, "have in logits"
    return (
        f"parameters, their moments and the rest of the state take {_size(state)}, what {rows:,} "
        f"sequences of {config.block_size:,} {what} some {_size(kept)}"
    )


def _remedies(config: TrainConfig) -> str:
    """Those that this run has left."""
    found = []
    if isinstance(config.model, GPTShape) and not config.remat:
        found.append("--remat")
    finer = [
        n
        for n in range(config.accumulate_steps + 1, min(config.batch_size, MOST_PARTS) + 1)
        if config.batch_size % n == 0
    ]
    if finer and config.rng != "torch":
        found.append(f"--accumulate-steps {finer[0]} or more")
    found += [
        f"a smaller {flag}"
        for flag, value in (
            ("--batch-size", config.batch_size),
            ("--block-size", config.block_size),
        )
        if value > 1
    ]
    if isinstance(config.model, GPTShape):
        found.append("a smaller model")
    return ", ".join(found)


def _size(n_bytes: int) -> str:
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if n_bytes >= factor:
            return f"{n_bytes / factor:,.3g} {unit}"
    return f"{n_bytes / 1e3:,.3g} kB"

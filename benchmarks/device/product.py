"""Whether the product works: a lecture run in bfloat16, resumed, sampled from; and equal bits."""

from __future__ import annotations

import json
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.device.commands import require_tyro, run_command
from benchmarks.device.record import Record
from benchmarks.device.sizes import Sizes
from jax_attn.runs.checkpoint import Checkpoints
from jax_attn.runs.run import Run

WALL_CLOCK = ("elapsed_s", "tokens_per_second")  # all of a metric's fields that a clock gives
EXCLUDE = "--xla_gpu_exclude_nondeterministic_ops=true"


def measure(record: Record, sizes: Sizes) -> None:
    require_tyro()
    third = sizes.run_steps // 3
    run = ("train.py", sizes.run_preset, "--dtype", "bfloat16")
    run += ("--eval-every", third, "--checkpoint-every", third)
    run += ("--sample-tokens", sizes.sample_tokens)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = folder / "first"
        if not run_command(record, "train.py", *run, "--steps", sizes.run_steps, "--out", first):
            return
        for metrics in metrics_of(first):
            record.add("metrics", metrics)
        to_resume = shutil.copytree(first, folder / "resumed")

        def resume() -> None:
            more = ("--resume", to_resume, "--steps", sizes.run_steps + third)
            if run_command(record, "train.py --resume", "train.py", *more):
                record.add("metrics, resumed", metrics_of(to_resume)[-1])
            sample = ("-m", "jax_attn.generate", to_resume, "--tokens", sizes.sample_tokens)
            run_command(record, "python -m jax_attn.generate", *sample)

        short = (*run, "--steps", third, "--out")

        def repeat() -> None:
            if run_command(record, "the first third again", *short, folder / "again"):
                compare(record, "as it is", third, first, folder / "again")

        def repeat_without() -> None:
            one, other = folder / "one", folder / "other"
            for path in (one, other):
                figure = f"the first third, {EXCLUDE}, {path.name}"
                if not run_command(record, figure, *short, path, flags=EXCLUDE):
                    return
            compare(record, EXCLUDE, third, one, other)

        # At the same time: whether they work is the question, and not how fast.
        with ThreadPoolExecutor() as threads:
            works = [threads.submit(work) for work in (repeat_without, repeat, resume)]
        for work in works:
            work.result()


def metrics_of(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def compare(record: Record, figure: str, step: int, one: Path, other: Path) -> None:
    """Records whether two runs are the same up to a step: their losses, and every bit of state."""
    losses = [
        [{k: v for k, v in m.items() if k not in WALL_CLOCK} for m in metrics_of(run)]
        for run in (one, other)
    ]
    losses = [[m for m in found if m["step"] <= step] for found in losses]
    states = [state_bytes(run, step) for run in (one, other)]
    different = [name for name in states[0] if states[0][name] != states[1].get(name)]
    record.add(
        f"equal bits, {figure}",
        losses[0] == losses[1] and not different and states[0].keys() == states[1].keys(),
        metrics_equal=losses[0] == losses[1],
        metrics=losses,
        arrays=len(states[0]),
        different_arrays=len(different),
        examples=different[:5],
    )


def state_bytes(path: Path, step: int) -> dict[str, bytes]:
    """Every array of a run's state at a step, by its place in the state."""
    with tempfile.TemporaryDirectory() as name:
        # A run that has come no further: its newest checkpoint is the one that is restored.
        copy = Path(name)
        for file in ("config.json", "tokenizer.json"):
            shutil.copy(path / file, copy)
        shutil.copytree(path / "checkpoints" / str(step), copy / "checkpoints" / str(step))
        run = Run.open(copy)
        checkpoints = Checkpoints(run)
        state = checkpoints.restore(run.shapes())
        checkpoints.close()
    found = {}
    for place, leaf in jax.tree_util.tree_leaves_with_path(state):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        plain = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        found[jax.tree_util.keystr(place)] = plain.tobytes()
    return found

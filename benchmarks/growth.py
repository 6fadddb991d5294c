"""How time grows with length, depth, batch and tokens: `python -m benchmarks.growth FOLDER`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import matplotlib
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks import torch_or_exit  # noqa: F401
from benchmarks.attention import JaxAttention, TorchAttention
from benchmarks.estimate import about, read_command_line
from benchmarks.generation import JaxGeneration, Request
from benchmarks.interleave import Work, compare
from benchmarks.rows import OURS
from benchmarks.training_step import JaxTraining, TorchTraining
from benchmarks.weights import LECTURE, NANOGPT

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
LAYERS = (1, 2, 4, 8)
BATCHES = (3, 6, 12, 24)
TOKENS = (32, 64, 128, 192, 256)

Curve = dict[int, float]  # what is varied: milliseconds


def attention() -> dict[str, Curve]:
    """Forward and backward of 6 heads of 64 channels, per row of the batch."""
    curves: dict[str, Curve] = {OURS: {}, "whole matrix": {}, "torch SDPA": {}}
    for length in LENGTHS:
        shape = (max(1, 2048 // length), 6, length, 64)
        sides = {
            OURS: partial(JaxAttention, "ours", shape),
            "whole matrix": partial(JaxAttention, "explicit", shape),
            "torch SDPA": partial(TorchAttention, shape),
        }
        timing = compare(sides, rtol=1e-4, rounds=5)
        for side in sides:
            curves[side][length] = 1e3 * timing.median(side) / shape[0]
    return curves


def training() -> dict[str, Curve]:
    """A step of the nanoGPT-CPU model with one of its sizes varied."""
    curves: dict[str, Curve] = {}
    for name, field, values in (
        ("layers", "n_layer", LAYERS),
        ("batch", "batch_size", BATCHES),
    ):
        cases = {value: replace(NANOGPT, **{field: value}) for value in values}
        ours = {n: partial(JaxTraining, case) for n, case in cases.items()}
        torchs = {n: partial(TorchTraining, case, "eager") for n, case in cases.items()}
        curves |= in_turns({f"{OURS}, {name}": ours, f"best torch, {name}": torchs})
    return curves


def generation() -> dict[str, Curve]:
    """A token of the lecture's 10.8 M model, by how many are generated within its window."""
    return in_turns({OURS: {n: partial(JaxGeneration, Request(LECTURE, 1, n)) for n in TOKENS}})


def in_turns(curves: Mapping[str, Mapping[int, Callable[[], Work]]]) -> dict[str, Curve]:
    """All points in turns, or a curve would show how the machine's speed changed meanwhile."""
    sides = {f"{name} {n}": build for name, curve in curves.items() for n, build in curve.items()}
    timing = compare(sides, rtol=None, rounds=7)
    return {
        name: {n: 1e3 * timing.median(f"{name} {n}") for n in curve}
        for name, curve in curves.items()
    }


@dataclass(frozen=True)
class Arguments:
    """Time against length, depth, batch and tokens, as growth.json and growth.png."""

    folder: Annotated[Path, tyro.conf.Positional]  # where both are written


def main() -> int:
    folder = read_command_line(Arguments, "growth").folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"benchmarks.growth: error: {folder}: {error.strerror}", file=sys.stderr)
        return 2
    print(about("growth"), flush=True)
    found = {}
    for measure in (attention, training, generation):
        found[measure.__name__] = measure()
        print(measure.__name__, json.dumps(found[measure.__name__]), flush=True)
    (folder / "growth.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    plot(found, folder / "growth.png")
    return 0


def plot(found: dict[str, dict[str, Curve]], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    draw(axes[0], found["attention"], "positions T", "ms per row of the batch")
    axes[0].set(xscale="log", yscale="log", title="attention, forward and backward")
    draw(axes[1], found["training"], "layers, or rows of the batch", "ms per step")
    axes[1].set(title="training step, C 128, T 64", xlim=(0, None), ylim=(0, None))
    draw(axes[2], found["generation"], "tokens generated in the window", "ms per token")
    axes[2].set(title="generation, 10.8 M parameters", xlim=(0, None), ylim=(0, None))
    figure.savefig(path, dpi=110)


def draw(axes: Axes, curves: dict[str, Curve], x: str, y: str) -> None:
    for name, curve in curves.items():
        side, _, what = name.partition(", ")
        color = {OURS: "C0", "whole matrix": "C1"}.get(side, "C2")
        line = "--" if what == "batch" else "-"
        axes.plot(
            [int(k) for k in curve], list(curve.values()), line, c=color, marker="o", label=name
        )
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend()


if __name__ == "__main__":
    sys.exit(main())

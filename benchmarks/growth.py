"""How time grows with length, depth, batch and tokens: `python -m benchmarks.growth FOLDER`.

Writes growth.json and growth.png into the folder.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.attention import JaxAttention, TorchAttention
from benchmarks.generation import JaxGeneration, Request
from benchmarks.interleave import compare
from benchmarks.rows import OURS
from benchmarks.training_step import JaxTraining
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
    curves: dict[str, Curve] = {"layers": {}, "batch": {}}
    for name, field, values in (
        ("layers", "n_layer", LAYERS),
        ("batch", "batch_size", BATCHES),
    ):
        for value in values:
            case = replace(NANOGPT, **{field: value})
            timing = compare({OURS: partial(JaxTraining, case)}, rtol=0, rounds=5)
            curves[name][value] = 1e3 * timing.median(OURS)
    return curves


def generation() -> dict[str, Curve]:
    """A token of the lecture's 10.8 M model, by how many are generated within its window."""
    curve: Curve = {}
    for n in TOKENS:
        side = {OURS: partial(JaxGeneration, Request(LECTURE, 1, n))}
        curve[n] = 1e3 * compare(side, rtol=0, rounds=5).median(OURS)
    return {OURS: curve}


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m benchmarks.growth FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
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
        axes.plot([int(k) for k in curve], list(curve.values()), marker="o", label=name)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend()


if __name__ == "__main__":
    sys.exit(main())

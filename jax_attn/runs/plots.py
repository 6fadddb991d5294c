"""The pictures of a run: the loss curve and the attention weights. Run as a script, it is the
process behind `Painter`."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

MAX_LAYERS, MAX_HEADS = 6, 6  # heat maps drawn at most, down and across


def _figure(width: float, height: float) -> Any:
    """A figure that needs no display and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_loss(metrics_path: Path, path: Path) -> None:
    """Training and validation loss over the steps, from a run's `metrics.jsonl`, as PNG."""
    lines = metrics_path.read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]
    figure = _figure(7, 4.5)
    axes = figure.add_subplot()
    axes.plot(
        [m["step"] for m in metrics],
        [m["train_loss"] for m in metrics],
        linewidth=1,
        label="training (mean of the steps since the last point)",
    )
    evaluated = [m for m in metrics if "val_loss" in m]
    axes.plot(
        [m["step"] for m in evaluated],
        [m["val_loss"] for m in evaluated],
        marker="o",
        markersize=4,
        label="validation (whole split)",
    )
    if evaluated:
        last = evaluated[-1]
        axes.annotate(
            f"{last['val_loss']:.3f}",
            (last["step"], last["val_loss"]),
            textcoords="offset points",
            xytext=(-4, 8),
            ha="right",
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per character)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_attention(weights: Float[np.ndarray, "L H T T"], characters: str, path: Path) -> None:
    """One heat map a layer and head: which character (row) looks at which (column), as PNG."""
    n_layer, n_head = min(weights.shape[0], MAX_LAYERS), min(weights.shape[1], MAX_HEADS)
    labels = [{"\n": "⏎", " ": "␣"}.get(c, c) for c in characters]
    panel = max(2.2, 0.13 * len(labels))
    figure = _figure(panel * n_head + 0.6, panel * n_layer + 0.6)
    axes = figure.subplots(n_layer, n_head, squeeze=False)
    places = range(len(labels))
    for layer in range(n_layer):
        for head in range(n_head):
            panel_axes = axes[layer][head]
            image = panel_axes.imshow(weights[layer, head], vmin=0, vmax=1, cmap="viridis")
            panel_axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
            for axis in (panel_axes.xaxis, panel_axes.yaxis):
                axis.set_ticks(places, labels, fontsize=5, family="DejaVu Sans Mono")
                axis.set_tick_params(length=0, pad=1)
    figure.supxlabel("looked at", fontsize=9)
    figure.supylabel("looking", fontsize=9)
    figure.colorbar(image, ax=axes, label="attention weight", shrink=0.6)
    figure.savefig(path, dpi=130)


PICTURES = {"loss": plot_loss, "attention": plot_attention}


def serve() -> None:
    """Draws what is asked for on standard input, and answers with None or what went wrong."""
    os.nice(10)  # a run's own processes go first
    _figure(1, 1)  # imports matplotlib, before anything is asked
    while True:
        try:
            picture, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            PICTURES[picture](*arguments)
            error = None
        except Exception as raised:
            error = raised
        pickle.dump(error, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()

"""The pictures of a run: the loss curve and the attention weights. Run as a script, it is the
process behind `Painter`."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import sys
import warnings
from pathlib import Path
from typing import IO, Any

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


ANSWER = b"\0picture "  # before an answer: another may have written there, a sitecustomize.py say


def answer(stream: IO[bytes]) -> str:
    """Of the process, to one picture: "", or why it is not drawn. EOFError when it has ended."""
    for line in stream:
        _, found, reason = line.partition(ANSWER)
        if found:
            return reason.decode("utf-8").rstrip("\n")
    raise EOFError


def serve() -> None:
    """Draws what is asked for on standard input; an `answer` to each on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Windows sends it to all processes of a console
    if hasattr(os, "nice"):
        os.nice(10)  # a run's own processes go first
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    warnings.simplefilter("ignore")  # letters that no font has
    with contextlib.suppress(Exception):  # then it is the answer to whoever asks
        _figure(1, 1)  # imports matplotlib, before anything is asked
    while True:
        try:
            picture, arguments, path = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answers.write(ANSWER + _fault(picture, arguments, path).encode("utf-8", "replace") + b"\n")
        answers.flush()


def _fault(picture: str, arguments: tuple[Any, ...], path: Path) -> str:
    """Draws a picture beside its place first, so that it is whole or not there."""
    partial = path.with_name(f"{path.stem}.writing{path.suffix}")
    try:
        import matplotlib

        matplotlib.rcdefaults()  # whatever somebody's matplotlibrc says
        PICTURES[picture](*arguments, partial)
        partial.replace(path)
        return ""
    except OSError as error:
        fault = error.strerror or str(error)
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        partial.unlink(missing_ok=True)
    return fault.partition("\n")[0][:300]


if __name__ == "__main__":
    serve()

"""The pictures of a run: the loss curve and the attention weights. Run as a script, it is the
process behind `Painter`."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import signal
import sys
import textwrap
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float

MAX_LAYERS, MAX_HEADS = 6, 6  # heat maps drawn at most, down and across
MAX_TOKENS = 24  # of the text, so that each can be read beside a map
LONGEST = 9  # letters wide is what is shown of a token
INCHES, DPI = 17.6, 100  # of all maps together at most, so that no side has 2,000 pixels
LEFT, RIGHT, ABOVE, BELOW = 0.8, 1.2, 1.1, 0.8  # inches around the maps: letters, scale, text
SHORT = 4  # letters that have room there; of a letter in a font of fixed width, LETTER is its part
LETTER = 0.6
SHOWN = {"\n": "⏎", " ": "␣", "\t": "⇥"}
FONT = "DejaVu Sans Mono"  # which matplotlib brings with it


def _figure(width: float, height: float, layout: Any = "constrained") -> Any:
    """A figure that needs no display and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def plot_loss(metrics_path: Path, unit: str, path: Path) -> None:
    """Batch and validation loss over the steps, from a run's `metrics.jsonl`, as PNG.

    `unit` is what a token is: "character".
    """
    metrics = _records(metrics_path)
    figure = _figure(7, 4.5)
    axes = figure.add_subplot()
    axes.margins(x=0.05, y=0.12)  # room for what is written beside the last point
    axes.plot(
        [m["step"] for m in metrics],
        [m["train_loss"] for m in metrics],
        linewidth=1,
        marker="o" if len(metrics) == 1 else None,  # a line needs two
        markersize=4,
        label="batches (mean of the steps since the last point)",
    )
    evaluated = [m for m in metrics if math.isfinite(m.get("val_loss", math.nan))]
    axes.plot(
        [m["step"] for m in evaluated],
        [m["val_loss"] for m in evaluated],
        marker="o",
        markersize=4,
        label="validation",
    )
    if evaluated:
        last = evaluated[-1]
        best = _best(evaluated, metrics_path.with_name("checkpoints"))
        axes.plot(
            best["step"],
            best["val_loss"],
            linestyle="",
            marker="*",
            markersize=13,
            color="C3",
            label=f"best checkpoint: {best['val_loss']:.3f} at step {best['step']:,}",
        )
        axes.annotate(
            f"{last['val_loss']:.3f}",
            (last["step"], last["val_loss"]),
            textcoords="offset points",
            xytext=(0, 9),
            ha="center" if len(metrics) == 1 else "right",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
        )
    axes.set_title(metrics_path.parent.name, fontsize=9, parse_math=False)
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss (nats per {unit})")
    axes.ticklabel_format(useOffset=False, style="plain")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(metrics) == 1:  # of which the locator would show hundredths
        axes.set_xticks([metrics[0]["step"]])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_attention(
    weights: Float[np.ndarray, "L H T T"], symbols: Sequence[str], metrics_path: Path, path: Path
) -> None:
    """One heat map a layer and head: which token (row) looks at which (column), as PNG."""
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    n_layer, n_head = weights.shape[:2]
    layers, heads = _spread(n_layer, MAX_LAYERS), _spread(n_head, MAX_HEADS)
    text = symbols[:MAX_TOKENS]
    fonts, missing = _fonts_for("".join(text))
    labels = [_label(symbol, missing) for symbol in text]
    panel = min(4.5, INCHES / max(len(layers), len(heads)))
    size = min(10.0, 0.8 * 72 * panel / len(text))
    longer = LETTER * size / 72 * max(0, max(map(_columns, labels)) - SHORT)
    left, below = LEFT + longer, BELOW + longer
    width, height = left + panel * len(heads) + RIGHT, below + panel * len(layers) + ABOVE
    # Placed by hand, the letters too: as ticks they are laid out again and again, for seconds.
    figure = _figure(width, height, layout=None)
    figure.subplots_adjust(
        left=left / width,
        right=1 - RIGHT / width,
        bottom=below / height,
        top=1 - ABOVE / height,
        wspace=0.06,
        hspace=0.12,
    )
    axes = figure.subplots(len(layers), len(heads), squeeze=False)
    # A root, because in deep layers a weight is a small part of 1 and would be as good as black.
    norm, colours = PowerNorm(0.5, vmin=0, vmax=1), colormaps["viridis"].with_extremes(bad="0.85")
    masked = np.triu(np.ones((len(text), len(text)), bool), 1)
    letter = {"fontsize": size, "family": fonts}
    letter |= {"parse_math": False}
    for row, layer in zip(axes, layers, strict=True):
        for panel_axes, head in zip(row, heads, strict=True):
            seen = np.ma.array(weights[layer, head, : len(text), : len(text)], mask=masked)
            image = panel_axes.imshow(seen, norm=norm, cmap=colours)
            panel_axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=10)
            panel_axes.set(xticks=[], yticks=[])
    for place, label in enumerate(labels):
        for first in axes[:, 0]:
            first.text(-0.9, place, label, ha="right", va="center", **letter)
        for last in axes[-1]:
            turned = {"rotation": 90 if len(label) > 1 else 0}
            last.text(place, len(text) - 0.2, label, ha="center", va="top", **turned, **letter)
    written = "".join(_escaped(c) if c in missing else SHOWN.get(c, c) for c in "".join(text))
    lines = [_heading(metrics_path), *textwrap.wrap(f"text: {written}", int(width * 72 / 7))]
    if left_out := _left_out(layers, n_layer, "layers") + _left_out(heads, n_head, "heads"):
        lines.append("shown: " + ", ".join(left_out))
    figure.suptitle(
        "\n".join(lines), y=1 - 0.15 / height, fontsize=10, family=fonts, parse_math=False
    )
    figure.supxlabel("looked at", y=0.2 / height, fontsize=10)
    figure.supylabel("looking", x=0.15 / width, fontsize=10)
    right = figure.add_axes(
        (1 - 0.85 * RIGHT / width, below / height, 0.15 / width, min(6, height - 2) / height)
    )
    figure.colorbar(image, cax=right).set_label(
        "attention weight (colour by its square root); grey: masked", fontsize=9
    )
    figure.savefig(path, dpi=DPI)


def _records(metrics_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in metrics_path.read_text(encoding="utf-8").splitlines()]


def _best(evaluated: list[dict[str, Any]], checkpoints: Path) -> dict[str, Any]:
    """The record of least validation loss among those whose checkpoint is there, if any is."""
    kept = [m for m in evaluated if (checkpoints / str(m["step"])).is_dir()]
    return min(kept or evaluated, key=lambda m: m["val_loss"])


def _heading(metrics_path: Path) -> str:
    """The run, its last step, and its last validation loss."""
    metrics, parts = _records(metrics_path), [metrics_path.parent.name]
    if metrics:
        parts.append(f"step {metrics[-1]['step']:,}")
    evaluated = [m for m in metrics if "val_loss" in m]
    if evaluated:
        parts.append(f"validation loss {evaluated[-1]['val_loss']:.3f}")
    return ", ".join(parts)


def _spread(n: int, most: int) -> list[int]:
    """The first and the last of n, and others evenly between."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()


def _left_out(shown: list[int], n: int, what: str) -> list[str]:
    return [f"{what} {' '.join(str(i + 1) for i in shown)} of {n}"] if len(shown) < n else []


def _label(symbol: str, missing: set[str]) -> str:
    """Of a token, for the side of a map."""
    label = ""
    for c in symbol:
        more = f"{ord(c):04X}" if c in missing else SHOWN.get(c, c)
        if _columns(label + more) > LONGEST:
            return label + "…"
        label += more
    return label


def _columns(label: str) -> int:
    """How many letters it is wide; one of Chinese is two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in label)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _fonts_for(text: str) -> tuple[list[str], set[str]]:
    """Names of fonts that together have the text's characters, and the characters none has."""
    from matplotlib.font_manager import FontProperties, fontManager, get_font

    def without(path: str, characters: Iterable[str]) -> set[str]:
        font = get_font(path)
        return {c for c in characters if not font.get_char_index(ord(SHOWN.get(c, c)))}

    names = [FONT]
    missing = without(fontManager.findfont(FontProperties(family=FONT)), set(text))
    for entry in fontManager.ttflist:
        if not missing:
            break
        still = without(entry.fname, missing)
        if len(still) < len(missing) and "Last Resort" not in entry.name:
            names.append(entry.name)
            missing = still
    return names, missing


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

"""A run's pictures: what one can read in them, for every shape of model, text and record."""

import json

import numpy as np
import pytest

from jax_attn.runs import plots

TEXT = "First Citizen:\nBefore we proceed any further"
CHINESE = "春眠不觉晓，处处闻啼鸟。"


def record(step, train, val=None):
    return {"step": step, "train_loss": train} | ({} if val is None else {"val_loss": val})


RECORDS = [record(200, 3.0, 3.1), record(400, 2.0, 2.2), record(600, 1.5, 2.5)]


def weights(n_layer, n_head, length):
    """Sharp in the first layer and even in the last."""
    scores = np.random.default_rng(0).normal(size=(n_layer, n_head, length, length))
    scores *= np.linspace(4, 0.1, n_layer)[:, None, None, None]
    exp = np.exp(scores) * np.tril(np.ones((length, length)))
    return (exp / exp.sum(-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is drawn."""
    drawn, make = [], plots._figure

    def kept(*given, **how):
        drawn.append(make(*given, **how))
        return drawn[-1]

    monkeypatch.setattr(plots, "_figure", kept)
    return drawn


@pytest.fixture
def folder(tmp_path):
    def make(records, checkpoints=(), name="mini-20261127-120000"):
        run = tmp_path / name
        (run / "checkpoints").mkdir(parents=True)
        for step in checkpoints:
            (run / "checkpoints" / str(step)).mkdir()
        lines = "".join(json.dumps(r) + "\n" for r in records)
        (run / "metrics.jsonl").write_text(lines, encoding="utf-8")
        return run

    return make


def size_of(path):
    return tuple(int.from_bytes(path.read_bytes()[i : i + 4], "big") for i in (16, 20))


@pytest.mark.parametrize(
    ("n_layer", "n_head", "text", "maps", "shown"),
    [
        pytest.param(1, 1, TEXT, 1, "", id="one head"),
        pytest.param(2, 3, TEXT[:8], 6, "", id="eight characters"),
        pytest.param(1, 2, "a", 2, "", id="one character"),
        pytest.param(12, 12, TEXT, 36, "layers 1 3 5 8 10 12 of 12, heads 1 3", id="GPT-2"),
        pytest.param(1, 8, TEXT, 6, "heads 1 2 4 5 7 8 of 8", id="one layer of many heads"),
        pytest.param(1, 2, CHINESE, 2, "", id="Chinese"),
        pytest.param(1, 1, "$x$ \\$5 {a}_b^c\t\x00é\u0301😀", 1, "", id="symbols of formulae"),
    ],
)
def test_maps_of_attention(n_layer, n_head, text, maps, shown, figures, folder):
    """Warnings are errors here: of missing glyphs too."""
    run = folder(RECORDS)
    path = run / "attention.png"
    plots.plot_attention(weights(n_layer, n_head, len(text)), text, run / "metrics.jsonl", path)
    assert max(size_of(path)) < 2000
    (figure,) = figures
    heading = figure.get_suptitle()
    assert heading.startswith("mini-20261127-120000, step 600, validation loss 2.500\ntext: ")
    assert ("shown: " + shown in heading) if shown else ("shown" not in heading)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == maps
    length = min(len(text), plots.MAX_TOKENS)
    for image in images:
        masked = np.ma.getmaskarray(image.get_array())
        np.testing.assert_array_equal(masked, np.triu(np.ones((length, length), bool), 1))
        assert tuple(image.cmap.get_bad()) not in {tuple(image.cmap(0)), tuple(image.cmap(1.0))}
    assert "grey: masked" in figure.axes[-1].get_ylabel()
    letters = [t for axes in figure.axes for t in axes.texts]
    assert min(t.get_fontsize() for t in letters) >= 6


def test_the_text_is_written_out_and_its_letters_stand_beside_the_maps(figures, folder):
    run = folder(RECORDS)
    given = run / "metrics.jsonl", run / "attention.png"
    plots.plot_attention(weights(1, 1, len(TEXT)), TEXT, *given)
    (figure,) = figures
    assert "text: First␣Citizen:⏎Before␣w" in figure.get_suptitle()
    letters = "".join(t.get_text() for t in figure.axes[0].texts)
    assert letters[::2] == letters[1::2] == "First␣Citizen:⏎Before␣we"


def test_characters_that_no_font_has_are_written_as_code_points(figures, folder, monkeypatch):
    monkeypatch.setattr(plots, "_fonts_for", lambda text: ([plots.FONT], set(CHINESE)))
    run = folder(RECORDS)
    given = run / "metrics.jsonl", run / "attention.png"
    plots.plot_attention(weights(1, 1, len(CHINESE)), CHINESE, *given)
    (figure,) = figures
    assert "text: \\u6625\\u7720" in figure.get_suptitle()
    assert figure.axes[0].texts[0].get_text() == "6625"


BPE = ["the", " citizens", "\n\n", "\\xe4\\xb8", "春", " extraordinarily", "$x$", "<|endoftext|>"]


@pytest.mark.parametrize(("n_layer", "n_head"), [(1, 1), (12, 12)])
def test_tokens_of_several_letters_stand_beside_the_maps(n_layer, n_head, figures, folder):
    """All inside the picture."""
    run = folder(RECORDS)
    path = run / "attention.png"
    symbols = BPE * 3
    shown = weights(n_layer, n_head, len(symbols))
    plots.plot_attention(shown, symbols, run / "metrics.jsonl", path)
    width, height = size_of(path)
    assert max(width, height) < 2000
    (figure,) = figures
    assert "text: the␣citizens⏎⏎" in figure.get_suptitle()
    beside = {t.get_text() for axes in figure.axes for t in axes.texts} - {"春", "6625"}
    long = {"␣extraord…", "<|endofte…"}
    assert beside == {"the", "␣citizens", "⏎⏎", "\\xe4\\xb8", "$x$"} | long
    for axes in figure.axes:
        for letter in axes.texts:
            box = letter.get_window_extent()
            assert 0 < box.x0 < box.x1 < width
            assert 0 < box.y0 < box.y1 < height


def test_a_deep_layers_even_weights_are_told_from_nothing(figures, folder):
    run = folder(RECORDS)
    even = weights(2, 1, 24)[1:]
    plots.plot_attention(even, TEXT[:24], run / "metrics.jsonl", run / "attention.png")
    image = figures[0].axes[0].images[0]
    assert image.norm(1 / 24) > 0.2  # of the colours; linearly it would be 0.04
    assert image.norm(0) == 0
    assert image.norm(1) == 1


@pytest.mark.parametrize(
    ("records", "checkpoints", "star"),
    [
        pytest.param(RECORDS, (400, 600), (400, 2.2), id="best in the middle"),
        pytest.param(RECORDS, (200, 600), (600, 2.5), id="best of those that are kept"),
        pytest.param(RECORDS, (), (400, 2.2), id="none kept"),
        pytest.param([record(5, 2.0, 2.1)], (5,), (5, 2.1), id="one record"),
        pytest.param([record(5, 2.0)], (), None, id="never evaluated"),
        pytest.param([], (), None, id="no record"),
        pytest.param([record(i, 2.0, 2.0) for i in (1, 2)], (2,), (2, 2.0), id="flat"),
        pytest.param([record(i, i, i + 0.1) for i in (1, 2, 3)], (3,), (3, 3.1), id="rising"),
        pytest.param(
            [record(1, 2.0, 2.1), record(2, float("nan"), float("nan"))], (), (1, 2.1), id="NaN"
        ),
    ],
)
def test_the_curve_of_the_loss(records, checkpoints, star, figures, folder):
    run = folder(records, checkpoints)
    plots.plot_loss(run / "metrics.jsonl", "token", run / "loss.png")
    assert size_of(run / "loss.png") == (840, 540)
    (axes,) = figures[0].axes
    assert axes.get_title() == run.name
    assert axes.get_ylabel() == "loss (nats per token)"
    training, _, *best = axes.lines
    assert bool(best) == (star is not None)
    if star:
        assert (best[0].get_xdata()[0], best[0].get_ydata()[0]) == star
        assert f"best checkpoint: {star[1]:.3f} at step {star[0]}" in best[0].get_label()
    for label in axes.texts:  # the last value: all of it inside the frame
        frame, written = axes.get_window_extent(), label.get_window_extent()
        assert frame.x0 < written.x0 < written.x1 < frame.x1
        assert frame.y0 < written.y0 < written.y1 < frame.y1
    assert training.get_marker() == ("o" if len(records) == 1 else "None")
    assert len(axes.texts) == (star is not None)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_steps_are_whole_numbers(n, folder, figures):
    run = folder([record(i + 1, 4.0 - i, 4.1 - i) for i in range(n)])
    plots.plot_loss(run / "metrics.jsonl", "character", run / "loss.png")
    (figure,) = figures
    ticks = figure.axes[0].get_xticks()
    assert all(tick == round(tick) for tick in ticks)
    assert 1 in ticks

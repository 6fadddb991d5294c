"""Evaluation of a large text: it shows how far it is, can be stopped, and has its bound."""

import json
import signal

import jax
import numpy as np
import pytest

import jax_attn as ja
import train
from jax_attn.runs import progress
from jax_attn.runs.progress import TrainingProgress
from jax_attn.training import evaluation
from tests.came_to import records
from tests.in_process import SHORT, one_line

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.mark.parametrize(
    "at", [pytest.param(2, id="on the way"), pytest.param(4, id="at the last step")]
)
@pytest.mark.parametrize(
    "batch", [pytest.param(0, id="before it begins"), pytest.param(1, id="in the middle")]
)
def test_an_evaluation_that_is_stopped_is_made_when_the_run_goes_on(
    call, short, tmp_path, monkeypatch, at, batch
):
    monkeypatch.setattr("jax_attn.runs.report.EVALUATION_TOKENS", 64)
    seen = []

    def interrupt(self, done, of):
        seen.append((done, of))
        if stops and done == batch and len(seen) > (at // 2 - 1) * of:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingProgress, "evaluating", interrupt)
    arguments = ["bigram", *SHORT, "--data", short / "text.txt"]
    stops = False
    assert call(train.main, *arguments, "--out", tmp_path / "whole")[0] == 0
    stops, of = True, seen[0][1]
    assert of == 3
    seen.clear()
    code, out, _ = call(train.main, *arguments, "--out", tmp_path / "run")
    assert code == 128 + signal.SIGTERM
    assert f"stopped at step {at}; go on with" in out
    assert seen[-1] == (batch, of)  # no further batch was begun
    assert "val_loss" not in records(tmp_path / "run")[-1]
    progress_of = tmp_path / "run" / "checkpoints" / str(at) / "progress.json"
    assert json.loads(progress_of.read_text())["validation_loss"] is None
    stops = False
    code, out, err = call(train.main, "--resume", tmp_path / "run")
    assert (code, err) == (0, "")
    assert f"step {at}: batch loss" in out
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    assert [list(r) for r in records(tmp_path / "run")][-1][-1] == "val_loss"
    loss = records(tmp_path / "whole")[at // 2 - 1]["val_loss"]
    assert json.loads(progress_of.read_text())["validation_loss"] == loss
    samples = [(tmp_path / name / "sample.txt").read_bytes() for name in ("run", "whole")]
    assert samples[0] == samples[1]


def test_evaluation_says_how_far_it_is(call, short, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_LINE_EVERY_S", 0.0)
    code, out, _ = call(
        train.main, "bigram", *SHORT, "--data", short / "text.txt", "--out", tmp_path / "run"
    )
    assert code == 0
    assert out.count("evaluating: 0 of 1 batches") == 3  # twice on the way, and the training split


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param("0", "over all 175 characters of the validation split", id="all"),
        pytest.param("50", "over the first 50 of 175 characters of the validation split", id="50"),
        pytest.param("1", "over the first 1 of 175 characters of the validation split", id="one"),
        pytest.param("175", "over all 175 characters of the validation split", id="just all"),
        pytest.param("2147483647", "over all 175 characters of the validation split", id="more"),
    ],
)
def test_evaluation_has_its_bound(call, short, tmp_path, given, words):
    run = tmp_path / "run"
    arguments = [*SHORT, "--data", short / "text.txt", "--eval-tokens", given, "--out", run]
    code, out, _ = call(train.main, "bigram", *arguments)
    assert code == 0
    assert words in out
    n = min(int(given) or 175, 175)
    corpus = ja.load_corpus(str(short / "text.txt"), print)
    loss = ja.evaluate(ja.load_model(run), corpus.validation[: n + 1], block_size=8, batch_size=512)
    assert records(run)[-1]["val_loss"] == pytest.approx(loss, rel=1e-6)


def test_a_bound_below_nothing_is_refused(call):
    assert "eval_tokens is -1; it must be at least 0" in one_line(
        call(train.main, "bigram", "--eval-tokens", "-1")
    )


def test_few_batches_are_on_their_way(short, monkeypatch):
    """However many there are: what is asked between two of them is heard at once."""
    waited, done = [], []
    block = jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda x: waited.append(block(x)) or x)
    model, tokens = ja.load_model(short / "run"), np.zeros(1001, np.uint8)
    ja.evaluate(
        model, tokens, block_size=8, batch_size=5,
        on_batch=lambda n, of: done.append((n, of, len(waited))),
    )  # fmt: skip
    ahead = evaluation.AHEAD
    assert done == [(n, 25, max(0, n - ahead)) for n in range(25)]

    def stop(n, of):
        if n == 3:
            raise KeyboardInterrupt

    for estimate in (
        lambda: ja.evaluate(model, tokens, block_size=8, batch_size=5, on_batch=stop),
        lambda: ja.estimate_loss(
            model, ja.RandomBatches(jax.numpy.asarray(tokens), jax.random.key(0), 2, 8), 9,
            on_batch=stop,
        ),
    ):  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            estimate()

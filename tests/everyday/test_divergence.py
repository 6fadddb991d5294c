"""A training that diverges is remarked on, and one that learns is not."""

import math

import pytest

import jax_attn as ja
import train
from jax_attn.runs.divergence import Divergence
from tests.in_process import SHORT

pytestmark = pytest.mark.usefixtures("no_pictures")


# Training and validation loss of one evaluation after another, of 28 symbols: log 28 is 3.33.
LOSSES = [
    ("an untrained table", [(3.9, 3.85)], None),
    ("learning", [(3.4, 3.3), (2.5, 2.6), (2.4, 2.5)], None),
    ("a text known by heart", [(1.5, 1.9), (0.2, 4.9), (0.01, 7.0)], None),
    ("noise of a small batch", [(1.5, 1.9), (4.9, 1.8)], None),
    ("worse than guessing", [(21.0, 21.9)], "loss 21.90, where a uniform guess has 3.33; try"),
    ("worse than it was", [(1.9, 1.8), (2.9, 3.0)], "loss 3.00, where it was 1.80; try a smaller"),
    ("no number", [(2.0, math.nan)], "loss nan, where a uniform guess has 3.33"),
    ("well again", [(21.0, 21.9), (2.0, 2.1)], None),
]


@pytest.mark.parametrize(
    ("losses", "remark"), [pytest.param(*row[1:], id=row[0]) for row in LOSSES]
)
def test_divergence_that_stays_finite(losses, remark):
    watch = Divergence(ja.PRESETS["bigram"][1], 28)
    for pair in losses:
        watch.look(*pair)
    assert watch.remark is None if remark is None else remark in str(watch.remark)


def test_a_run_that_diverges_is_remarked_on_when_it_shows_and_at_the_end(call, text, tmp_path):
    wild = ["--learning-rate", "1000", "--optimizer.weight-decay", "0"]
    arguments = ["bigram", *SHORT, "--data", text, "--out", tmp_path / "run", *wild]
    code, out, _ = call(train.main, *arguments)
    assert code == 0
    assert out.count("the training has diverged: validation loss") == 2
    assert out.count("try a smaller --learning-rate or --optimizer.clip-norm 1") == 2
    assert "diverged" not in call(train.main, "--resume", tmp_path / "run")[1]


def test_a_run_that_learns_is_not_remarked_on(call, text, tmp_path):
    code, out, _ = call(train.main, "bigram", *SHORT, "--data", text, "--out", tmp_path / "run")
    assert code == 0
    assert "diverged" not in out

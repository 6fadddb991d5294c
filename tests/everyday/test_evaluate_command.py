"""python -m jax_attn.evaluate: the loss of any source on any text."""

import gzip
import json
import math
import re
import time

import numpy as np
import pytest

import jax_attn as ja
from jax_attn.data import ByteTokenizer
from jax_attn.evaluate import __main__ as evaluate_cli
from jax_attn.evaluate.batch_progress import BatchProgress
from jax_attn.evaluate.figures import Figures
from tests.in_process import FOX, finished_run, one_line

pytestmark = pytest.mark.usefixtures("no_pictures")

TINY = ["--batch-size", "2", "--block-size", "8", "--steps", "4", "--eval-every", "4",
        "--checkpoint-every", "4", "--sample-tokens", "5"]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, no_pictures):
    """A bigram's run, and a folder with texts."""
    folder = finished_run(tmp_path_factory.mktemp("made"), *TINY)
    (folder / "unknown.txt").write_text("the quick é brown fox É\n" * 9, encoding="utf-8")
    (folder / "short.txt").write_text("f")
    (folder / "packed.txt.gz").write_bytes(gzip.compress(FOX.encode()))
    return folder


@pytest.fixture
def figures(call, made):
    def of(*arguments):
        code, out, err = call(evaluate_cli.main, made / "run", "--json", *arguments)
        assert (code, err) == (0, "")
        return json.loads(out)

    return of


def test_a_runs_own_splits_have_the_losses_that_it_printed(made, figures, call):
    record = json.loads((made / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    found = figures("--split", "validation")
    assert found["nats_per_token"] == record["val_loss"]
    assert found["tokens"] == 175
    code, out, _ = call(evaluate_cli.main, made / "run", "--split", "validation")
    assert code == 0
    assert f"loss        {record['val_loss']:.4f} nats per character\n" in out
    assert "over        175 characters, 175 bytes of" in out
    assert out.endswith(", validation split, in windows of 8\n")


def test_the_figures_are_one_loss_in_other_units(made, figures):
    found = figures("--data", made / "text.txt")
    model = ja.load_model(made / "run")
    ids = ja.CharTokenizer.load(made / "run" / "tokenizer.json").encode(FOX)
    loss = ja.evaluate(model, ids, block_size=8, batch_size=512)
    assert found["nats_per_token"] == found["nats_per_character"] == loss
    assert found["perplexity"] == pytest.approx(math.exp(loss))
    assert found["bits_per_byte"] == pytest.approx(loss / math.log(2))
    assert found["tokens"] == found["characters"] == found["bytes"] == len(FOX) - 1


def test_texts_come_as_train_py_takes_them(made, figures):
    whole = figures("--data", made / "text.txt")
    packed = figures("--data", made / "packed.txt.gz")
    assert {k: v for k, v in packed.items() if k not in ("data", "sha256")} == {
        k: v for k, v in whole.items() if k not in ("data", "sha256")
    }
    first = figures("--data", made / "text.txt", "--eval-tokens", "50")
    assert (first["tokens"], first["bytes"]) == (50, 50)
    parts = [figures("--data", made / "text.txt", "--split", s) for s in ("train", "validation")]
    assert [part["tokens"] for part in parts] == [1583, 175]


def test_windows_and_batches_are_as_asked(figures):
    """A bigram's loss does not depend on them."""
    whole = figures()
    other = figures("--block-size", "3", "--batch-size", "7")
    assert (other["block_size"], other["batch_size"]) == (3, 7)
    assert other["nats_per_token"] == pytest.approx(whole["nats_per_token"], rel=1e-6)


def test_unknown_characters(made, call):
    given = [evaluate_cli.main, made / "run", "--data", made / "unknown.txt"]
    said = one_line(call(*given))
    assert re.search(r"outside the vocabulary: 'É', 'é'; .*; --unknown skip leaves them out$", said)
    code, out, err = call(*given, "--unknown", "skip", "--json")
    assert code == 0
    assert json.loads(out)["characters"] == 9 * 22 - 1
    assert "left out 18 characters unknown to the model: 'É' 9 times, 'é' 9 times" in err


REFUSED = [
    ("a text of one token", ["--data", "{made}/short.txt"], "1 tokens hold nothing to predict"),
    ("no text", ["--data", "{made}/nowhere.txt"], "there is no such file"),
    ("an encoding that is none", ["--encoding", "nonsense"], "nonsense"),
    ("a source that is none", ["--tokenizer", "{made}/nowhere.json"], "nowhere.json"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED]
)
def test_what_is_refused(call, made, arguments, said):
    arguments = [word.format(made=made) for word in arguments]
    assert said in one_line(call(evaluate_cli.main, made / "run", *arguments))


def test_bytes_and_characters_of_several():
    """Of four tokens a character: a loss a byte is a fourth of one a character."""
    tokenizer, text = ByteTokenizer(), "🙂" * 10
    found = Figures.of(2.0, tokenizer, tokenizer.encode("a" + text))
    assert (found.tokens, found.characters, found.bytes) == (40, 10, 40)
    assert found.nats_per_character == 8.0
    assert found.bits_per_byte == pytest.approx(2 / math.log(2))
    characters = ja.CharTokenizer.from_text(text + "é")
    found = Figures.of(2.0, characters, characters.encode("é" + text))
    assert (found.tokens, found.characters, found.bytes) == (10, 10, 40)


def test_a_figure_that_is_none():
    nothing = Figures(800.0, 3, 0, 0)
    assert nothing.nats_per_character is None
    assert nothing.bits_per_byte is None
    assert json.loads(evaluate_cli.as_json(nothing))["perplexity"] is None


def test_how_far_it_is_is_said_where_no_bar_can_be(capsys, monkeypatch):
    clock = iter(np.arange(0.0, 100.0, 4.0))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with BatchProgress() as progress:
        for done in range(9):
            progress.update(done, 9)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"evaluating: {n} of 9 batches" for n in (2, 5, 8)]


def test_the_name_of_the_package_is_that_of_the_function():
    assert callable(ja.evaluate)
    assert ja.evaluate.__module__ == "jax_attn.training.evaluation"

"""Command lines in the tests' own process, where runs of the same shapes share their programs."""

import contextlib
import signal
import sys

import pytest

import train
from jax_attn.runs.progress import TrainingProgress

FOX = "the quick brown fox jumps over the lazy dog\n" * 40
NO_NEWLINE = FOX.replace("\n", " ")
# A run that is evaluated and saved on the way and at its end.
SHORT = ["--steps", "4", "--eval-every", "2", "--checkpoint-every", "2", "--sample-tokens", "5",
         "--batch-size", "2", "--block-size", "8"]  # fmt: skip


def train_here(*arguments):
    """`train.py` with these, to its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        assert train.main() == 0


def finished_run(folder, *arguments, text=FOX):
    """A bigram's, as `run` in a folder that has its `text.txt` too; returns the folder."""
    (folder / "text.txt").write_text(text, encoding="utf-8")
    train_here("bigram", *arguments, "--data", folder / "text.txt", "--out", folder / "run")
    return folder


@contextlib.contextmanager
def interrupted(after, *numbers):
    """Within it signals of these numbers come to a run when it has made so many steps."""
    update = TrainingProgress.update

    def interrupt(self, step, *figures):
        update(self, step, *figures)
        if step == after:
            for number in numbers:
                signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingProgress, "update", interrupt)
        yield


def one_line(result):
    """What a command that refuses has said, of the (exit code, output, error) that `call` gives."""
    code, _, err = result
    assert code == 2, err
    (line,) = err.splitlines()
    assert "Traceback" not in line
    assert len(line) < 1000
    return line

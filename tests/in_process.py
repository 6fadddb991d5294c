"""Command lines in the tests' own process, where runs of the same shapes share their programs."""

import sys

import pytest

import train

FOX = "the quick brown fox jumps over the lazy dog\n" * 40


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


def one_line(result):
    """What a command that refuses has said, of the (exit code, output, error) that `call` gives."""
    code, _, err = result
    assert code == 2, err
    (line,) = err.splitlines()
    assert "Traceback" not in line
    assert len(line) < 1000
    return line

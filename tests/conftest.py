"""One strict harness for all tests: highest matmul precision, no silent rank promotion."""

import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jaxtyping
import pytest

import jax_attn.runs.session
from jax_attn.runs.painter import Painter

jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture
def unchecked():
    """Annotations unchecked, as users run the package, to see its own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def x64():
    """float64 on the JAX side for one test."""
    with jax.enable_x64(True):
        yield


class _Unpainted(Painter):
    """One without a process, which draws nothing."""

    def __init__(self):
        pass

    def draw(self, picture, *arguments, path):
        pass

    def wait(self):
        return {}

    def __exit__(self, *_):
        pass


@pytest.fixture(scope="module")
def no_pictures():
    """Runs draw none: the process for it takes longer than a small run's training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax_attn.runs.session, "Painter", _Unpainted)
        yield


@pytest.fixture(scope="session")
def short(tmp_path_factory):
    """A folder with a short `run` of a bigram's and its `text.txt`, which has no newline.

    For tests that leave both as they are.
    """
    from tests.in_process import NO_NEWLINE, SHORT, finished_run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax_attn.runs.session, "Painter", _Unpainted)
        return finished_run(tmp_path_factory.mktemp("short"), *SHORT, text=NO_NEWLINE)


@pytest.fixture
def in_process(monkeypatch):
    """torch's files are read and written in the tests' own process."""
    from tests.torch_in_process import torch_in_process  # imports torch, which few tests need

    with torch_in_process(monkeypatch):
        yield


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 40, encoding="utf-8")
    return path


@pytest.fixture
def blows_up():
    """A run of train.py that meets NaN at step 4: without beta2 Adam's steps have no bound."""
    return [
        *("mini", "--model.n-layer", "1", "--model.n-head", "2", "--model.n-embd", "8"),
        *("--block-size", "16", "--batch-size", "4", "--learning-rate", "1e6"),
        *("--optimizer.weight-decay", "0", "--optimizer.beta2", "0"),
    ]


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a main() with arguments: (exit code, standard output, standard error)."""

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return run

"""Pictures drawn by another process: what goes wrong there is said here."""

import json

import pytest

from jax_attn.runs.painter import Painter


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": i, "train_loss": 4.0 - i, "val_loss": 4.1 - i} for i in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_picture_is_there_after_waiting(metrics, tmp_path):
    with Painter() as painter:
        painter.draw("loss", metrics, "character", path=tmp_path / "loss.png")
        assert painter.wait() == {"loss.png": ""}
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_why_a_picture_is_not_drawn(metrics, tmp_path):
    with Painter() as painter:
        painter.draw("loss", metrics, "character", path=tmp_path / "no such folder" / "loss.png")
        assert painter.wait() == {"loss.png": "No such file or directory"}


def test_a_process_that_is_gone_is_said_to_be(metrics, tmp_path):
    with Painter() as painter:
        painter._process.kill()
        painter._process.wait()
        painter.draw("loss", metrics, "character", path=tmp_path / "loss.png")
        assert painter.wait() == {
            "loss.png": "the process that draws pictures ended before its time"
        }


def test_the_process_does_not_outlive_its_painter():
    with Painter() as painter:
        process = painter._process
        assert process.poll() is None
    assert process.returncode is not None

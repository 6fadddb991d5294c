"""Devices that are not there, of which there are several, or whose memory does not suffice."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jax_attn as ja
import train
from jax_attn.generate import __main__ as generate_cli
from jax_attn.lecture import __main__ as lecture_cli
from jax_attn.runs.loop import TrainingLoop
from jax_attn.runs.presets import PRESETS
from tests.in_process import finished_run, one_line

pytestmark = pytest.mark.usefixtures("no_pictures")

ROOT = Path(__file__).parent.parent.parent
RUN = ["--steps", "4", "--eval-every", "2", "--checkpoint-every", "2", "--sample-tokens", "9"]
TINY = ["--batch-size", "2", *RUN]
GPT = ["--model.n-layer", "1", "--model.n-head", "2", "--model.n-embd", "8", "--block-size", "16"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, no_pictures):
    return finished_run(tmp_path_factory.mktemp("devices"), *TINY)


# No device.

UNKNOWN = RuntimeError(
    "Unable to initialize backend 'nonsense': Backend 'nonsense' is not in the list of known "
    "backends: ['cpu']. (set JAX_PLATFORMS='' to automatically choose an available backend)"
)


@pytest.mark.parametrize(
    ("asked", "fault", "words"),
    [
        pytest.param(
            "cuda",
            AssertionError(),
            "JAX_PLATFORMS is 'cuda', and JAX finds no such device; JAX_PLATFORMS=cpu takes the",
            id="cuda without one",
        ),
        pytest.param(
            "nonsense",
            UNKNOWN,
            "finds no such device (Unable to initialize backend 'nonsense': Backend 'nonsense' is "
            "not in the list of known backends: ['cpu']); JAX_PLATFORMS=cpu takes",
            id="a device that does not exist",
        ),
        pytest.param(
            "tpu",
            RuntimeError("TPU initialization failed: No ba16c7433 device found.\nAt: 12\nAt: 13"),
            "(TPU initialization failed: No ba16c7433 device found); JAX_PLATFORMS=cpu",
            id="words of several lines",
        ),
    ],
)
@pytest.mark.parametrize("command", ["a new run", "resume", "generate", "lecture", "ja.train"])
def test_no_device(call, made, monkeypatch, tmp_path, asked, fault, words, command):
    def fail(*_):
        jax._src.xla_bridge.logger.exception("twenty lines")
        raise fault

    monkeypatch.setenv("JAX_PLATFORMS", asked)
    monkeypatch.setattr(jax, "devices", fail)
    text, out = made / "text.txt", tmp_path / "run"
    if command == "ja.train":
        with pytest.raises(ja.InputError) as raised:
            ja.train(PRESETS["bigram"][1], data=text, out=out)
        assert words in str(raised.value)
    else:
        program, *given = {
            "a new run": [train.main, "bigram", *TINY, "--data", text, "--out", out],
            "resume": [train.main, "--resume", made / "run"],
            "generate": [generate_cli.main, made / "run"],
            "lecture": [lecture_cli.main],
        }[command]
        assert words in one_line(call(program, *given))
    assert not out.exists()


def test_no_device_in_a_process_of_its_own(made, tmp_path):
    given = ["bigram", *TINY, "--data", made / "text.txt", "--out", tmp_path / "run"]
    child = subprocess.run(
        [sys.executable, "train.py", *map(str, given)],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "nonsense"}, capture_output=True, text=True,
    )  # fmt: skip
    assert "JAX_PLATFORMS is 'nonsense'" in one_line((child.returncode, "", child.stderr))
    assert list(tmp_path.iterdir()) == []


def test_what_jax_remarks_where_it_begins_all_the_same_is_passed_on(
    call, made, monkeypatch, caplog
):
    devices, remarks = jax.devices(), ["a GPU may be present"]  # made once, when it starts

    def find(*_):
        while remarks:
            jax._src.xla_bridge.logger.warning(remarks.pop())
        return devices

    monkeypatch.setattr(jax, "devices", find)
    monkeypatch.setattr(jax._src.xla_bridge.logger, "handlers", [caplog.handler])
    assert call(train.main, "--resume", made / "run")[0] == 0
    assert "a GPU may be present" in caplog.messages


# Several.


@pytest.mark.parametrize(("several", "said"), [(1, "(cpu), jax"), (8, "(cpu), one of 8, jax")])
def test_the_device_line_says_that_one_is_used(call, made, monkeypatch, several, said):
    devices = jax.devices() * several
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    code, out, _ = call(train.main, "--resume", made / "run")
    assert code == 0
    assert f"device   cpu {said} " in out


# Too little memory.

ON_DEVICE = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes.\nAt")


def starved(monkeypatch, fault, method="_chunk"):
    def fail(*_, **__):
        raise fault

    monkeypatch.setattr(TrainingLoop, method, fail)


def test_too_large_a_batch(call, made, tmp_path, monkeypatch):
    """A real one, of 69 TB at once, that nothing has refused before."""
    monkeypatch.setattr("jax_attn.runs.session.require_memory", lambda config: None)
    given = ["bigram", *RUN, "--data", made / "text.txt", "--out", tmp_path / "run"]
    sizes = ["--batch-size", 2_000_000_000, "--block-size", 1500]
    line = one_line(call(train.main, *given, *sizes))
    assert "out of memory (RESOURCE_EXHAUSTED: Out of memory allocating " in line
    assert "parameters, their moments and the rest of the state take " in line
    assert "kB, what 2,000,000,000 sequences of 1,500 have in logits some 336 TB; " in line
    assert line.endswith("; to take less: --accumulate-steps 2 or more, a smaller --batch-size, "
                         "a smaller --block-size")  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "remedies"),
    [
        pytest.param(
            [*GPT, "--batch-size", "6"],
            "--remat, --accumulate-steps 2 or more, a smaller --batch-size, a smaller "
            "--block-size, a smaller model",
            id="a GPT",
        ),
        pytest.param(
            [*GPT, "--batch-size", "6", "--accumulate-steps", "2", "--remat"],
            "--accumulate-steps 3 or more, a smaller --batch-size, a smaller --block-size, a "
            "smaller model",
            id="a GPT that spares already",
        ),
        pytest.param(
            [*GPT, "--batch-size", "1", "--remat"],
            "a smaller --block-size, a smaller model",
            id="a GPT that has hardly anything to spare",
        ),
    ],
)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(ON_DEVICE, "(RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes.): p",
                     id="the device's"),
        pytest.param(MemoryError(), "out of memory: parameters, their moments", id="the host's"),
    ],
)  # fmt: skip
def test_the_remedies_are_those_that_are_left(
    call, made, tmp_path, monkeypatch, settings, remedies, fault, reason
):
    starved(monkeypatch, fault, "__init__")  # before anything is compiled
    given = ["mini", *RUN, *settings, "--data", made / "text.txt", "--out", tmp_path / "run"]
    line = one_line(call(train.main, *given))
    assert reason in line
    assert line.endswith(f"; to take less: {remedies}")
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_has_made_before_is_kept(call, made, monkeypatch):
    starved(monkeypatch, ON_DEVICE)
    line = one_line(call(train.main, "--resume", made / "run", "--steps", 6))
    assert f"go on where there is more memory with: python train.py --resume {made / 'run'}" in line
    monkeypatch.undo()
    assert call(train.main, "--resume", made / "run", "--steps", 4)[0] == 0


def test_a_folder_from_before_stays(call, made, tmp_path, monkeypatch):
    """One that was killed before its first checkpoint."""
    (tmp_path / "run").mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(made / "run" / name, tmp_path / "run")
    starved(monkeypatch, ON_DEVICE)
    one_line(call(train.main, "--resume", tmp_path / "run", "--steps", 6))
    before = (made / "run/config.json").read_bytes()
    assert (tmp_path / "run/config.json").read_bytes() == before


def test_sampling_without_memory(call, made, monkeypatch):
    def fail(*_, **__):
        raise ON_DEVICE

    monkeypatch.setattr(generate_cli, "stream", fail)
    line = one_line(call(generate_cli.main, made / "run"))
    assert "out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes.); end" in line

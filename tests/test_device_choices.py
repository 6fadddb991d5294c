"""What presets leave to the device: chosen when a run is created, and written down."""

import json
import shutil
from dataclasses import replace

import pytest

import jax_attn as ja
import train
from jax_attn.nn.flash import Accelerator
from jax_attn.runs import session
from jax_attn.runs.device_choices import choose_for_device

pytestmark = pytest.mark.usefixtures("no_pictures")

H100, TURING, TPU = Accelerator("cuda", 9.0), Accelerator("cuda", 7.5), Accelerator("tpu")
ROCM = Accelerator("rocm")
GIB = 1 << 30
TINY_GPT2 = [
    *("gpt2", "--model.n-layer", "1", "--model.n-head", "2", "--model.n-embd", "8"),
    *("--model.vocab-size", "0", "--block-size", "16", "--steps", "2", "--sample-tokens", "9"),
]


def chosen(preset, device, memory=None, **given):
    config, _ = choose_for_device(replace(ja.PRESETS[preset][1], **given), device, memory)
    return config.dtype, config.batch_size // config.accumulate_steps


@pytest.mark.parametrize("preset", ["bigram", "head", "mini"])
@pytest.mark.parametrize("device", [None, H100, TPU])
def test_small_presets_leave_nothing_open(preset, device):
    config = ja.PRESETS[preset][1]
    assert choose_for_device(config, device, 80 * GIB) == (config, [])


def test_large_presets_use_the_device():
    """Type, and sequences at once of a batch that is the same everywhere."""
    assert chosen("lecture", None) == ("float32", 64)
    assert chosen("lecture", H100, 60 * GIB) == ("bfloat16", 64)
    assert chosen("lecture", TPU) == ("bfloat16", 64)
    assert chosen("lecture", TURING) == chosen("lecture", ROCM) == ("float32", 64)
    assert chosen("gpt2", None) == ("float32", 1)
    assert chosen("gpt2", H100, 60 * GIB) == chosen("gpt2", TPU, 15 * GIB) == ("bfloat16", 8)


def test_parts_are_as_few_as_fit():
    assert chosen("gpt2", H100, 60 * GIB, batch_size=32) == ("bfloat16", 32)
    assert chosen("gpt2", H100, 60 * GIB, batch_size=128) == ("bfloat16", 64)
    assert chosen("gpt2", H100, 4 * GIB) == ("bfloat16", 4)
    assert chosen("gpt2", H100, 60 * GIB, batch_size=7) == ("bfloat16", 7)
    assert chosen("gpt2", H100, 1) == ("bfloat16", 1)
    assert chosen("gpt2", H100) == ("bfloat16", 2)  # a device that does not tell
    half = replace(ja.PRESETS["gpt2"][1].model, dropout_rate=0.1)
    assert chosen("gpt2", H100, 12 * GIB, model=half) == ("bfloat16", 4)
    assert chosen("gpt2", H100, 12 * GIB) == ("bfloat16", 8)


def test_parts_of_what_keeps_little_or_draws_whole_batches():
    assert chosen("bigram", H100, 1, accumulate_steps=0) == ("float32", 32)
    assert chosen("gpt2", None, rng="torch") == ("float32", 8)


def test_what_the_user_gives_wins():
    given = replace(ja.PRESETS["gpt2"][1], dtype="float32", accumulate_steps=4)
    assert choose_for_device(given, H100, 80 * GIB) == (given, [])


@pytest.mark.parametrize("fields", [{"dtype": "auto"}, {"accumulate_steps": 0}])
def test_what_is_open_is_neither_written_nor_read(fields):
    closed = ja.PRESETS["mini"][1]
    with pytest.raises(ja.InputError, match=f"{next(iter(fields))} .* is to be chosen before"):
        replace(closed, **fields).to_dict()
    with pytest.raises(ja.InputError, match=f"not a training configuration: {next(iter(fields))}"):
        ja.TrainConfig.from_dict(closed.to_dict() | fields)


def config_of(run):
    return json.loads((run / "config.json").read_text())["config"]


def test_the_choice_is_said_and_kept_where_the_run_goes_on(call, text, tmp_path, monkeypatch):
    """Of the model that is soonest compiled; what is open is what large presets leave open."""
    settings = ["bigram", "--dtype", "auto", "--accumulate-steps", 0, "--batch-size", 8]
    settings += ["--steps", 2, "--sample-tokens", 9, "--data", text]
    run = tmp_path / "run"
    monkeypatch.setattr(session, "accelerator", lambda: H100)
    code, out, err = call(train.main, *settings, "--out", run)
    assert (code, err) == (0, "")
    assert "chosen   bfloat16: twice as fast as TF32 on this GPU; --dtype float32 keeps" in out
    assert "chosen   8 of a batch's 8 sequences at once: " in out
    before = config_of(run)
    assert (before["dtype"], before["accumulate_steps"]) == ("bfloat16", 1)
    monkeypatch.undo()
    shutil.rmtree(run / "checkpoints")  # all steps are to be made again
    (run / "sample.txt").unlink()
    code, out, err = call(train.main, "--resume", run)
    assert (code, err) == (0, "")
    assert "chosen" not in out
    assert config_of(run) == before
    assert (run / "sample.txt").exists()


def test_what_is_given_on_the_command_line_is_not_chosen(call, text, tmp_path, monkeypatch):
    written = []

    def interrupted(self, run, *_, **__):
        written.append(config_of(run.path))
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "accelerator", lambda: H100)
    monkeypatch.setattr(session.Session, "_train", interrupted)
    given = ["--dtype", "float32", "--accumulate-steps", 2]
    code, out, _ = call(train.main, *TINY_GPT2, *given, "--data", text, "--out", tmp_path / "run")
    assert code == 130
    assert "chosen" not in out
    (config,) = written
    assert (config["dtype"], config["accumulate_steps"]) == ("float32", 2)

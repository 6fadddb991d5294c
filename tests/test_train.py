"""Training as a function."""

import dataclasses
import os
import signal
import threading

import jax
import jax.numpy as jnp
import pytest

import jax_attn as ja
import train as command
from jax_attn.config import BigramShape
from tests.came_to import bits

pytestmark = pytest.mark.usefixtures("no_pictures")

CONFIG = dataclasses.replace(
    ja.PRESETS["mini"][1],
    model=dataclasses.replace(
        ja.PRESETS["mini"][1].model, n_layer=1, n_head=2, n_embd=8, dropout_rate=0.2
    ),
    dtype="bfloat16",
    batch_size=2,
    block_size=8,
    steps=12,
    eval_every=4,
    checkpoint_every=6,
    sample_tokens=20,
)
FLAGS = [
    *("mini", "--model.n-layer", "1", "--model.n-head", "2", "--model.n-embd", "8"),
    *("--model.dropout-rate", "0.2", "--dtype", "bfloat16", "--batch-size", "2"),
    *("--block-size", "8", "--steps", "12", "--eval-every", "4"),
    *("--checkpoint-every", "6", "--sample-tokens", "20"),
]


def figures(records):
    """What is the same wherever and however fast a run is made."""
    return [{k: r.get(k) for k in ("step", "train_loss", "val_loss")} for r in records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, no_pictures):
    """The run that all others are to agree with, and its text."""
    folder = tmp_path_factory.mktemp("whole")
    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 40, encoding="utf-8")
    seen = []
    result = ja.train(CONFIG, data=text, out=folder / "run", on_record=seen.append)
    return text, result, seen


def test_it_returns_what_is_in_the_folder(whole):
    _, result, seen = whole
    assert result.finite
    assert result.signal is None
    assert result.records == seen
    assert seen[-1]["step"] == 12
    assert {"val_loss", "elapsed_s", "tokens_per_second", "learning_rate"} <= set(seen[-1])
    assert bits(ja.load_model(result.path)) == bits(result.model)
    assert len((result.path / "sample.txt").read_text(encoding="utf-8")) == 22
    tokens = jnp.zeros((1, 1), jnp.int32)
    assert ja.generate(result.model, tokens, 3, key=jax.random.key(0)).shape == (1, 4)


def test_the_command_makes_the_same_bits(whole, call, tmp_path):
    text, result, seen = whole
    code, out, _ = call(command.main, *FLAGS, "--data", text, "--out", tmp_path / "run")
    assert code == 0
    assert "validation loss" in out
    assert bits(ja.load_model(tmp_path / "run")) == bits(result.model)
    again = ja.resume(tmp_path / "run")  # of which nothing is left to train
    assert figures(again.records) == figures(seen)


def test_in_a_thread_and_twice_in_a_process(whole, tmp_path, capsys):
    text, result, _ = whole
    results, compiled = [], []

    def work():
        results.append(ja.train(CONFIG, data=text, out=tmp_path / "run"))

    def count(event, *_, **__):
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            compiled.append(event)

    thread = threading.Thread(target=work)
    jax.monitoring.register_event_duration_secs_listener(count)
    thread.start()
    thread.join()
    jax.monitoring.unregister_event_duration_listener(count)
    assert compiled == []
    assert bits(results[0].model) == bits(result.model)
    assert "step 12: batch loss" in capsys.readouterr().out


def test_ctrl_c_saves_and_returns(whole, tmp_path, capsys):
    text, result, seen = whole
    before = signal.getsignal(signal.SIGINT)

    def interrupt(record):
        if record["step"] == seen[0]["step"]:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = ja.train(CONFIG, data=text, out=tmp_path / "run", on_record=interrupt)
    assert stopped.signal == signal.SIGINT
    assert stopped.records[-1]["step"] == seen[0]["step"] < 12
    assert f"go on with: python train.py --resume {tmp_path / 'run'}" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before
    whole_again = ja.resume(tmp_path / "run")
    assert bits(whole_again.model) == bits(result.model)
    assert figures(whole_again.records) == figures(seen)


def test_a_second_ctrl_c_is_pythons_own(whole, tmp_path):
    text, _, _ = whole
    # Workers of pytest ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt(record):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            ja.train(CONFIG, data=text, out=tmp_path / "run", on_record=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ja.resume(tmp_path / "run").records[-1]["step"] == 12


def test_the_state_is_saved_before_what_a_callback_raises(whole, tmp_path):
    text, result, seen = whole

    def fail(record):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        ja.train(CONFIG, data=text, out=tmp_path / "run", on_record=fail)
    assert (tmp_path / "run" / "checkpoints" / str(seen[0]["step"])).is_dir()
    assert bits(ja.resume(tmp_path / "run").model) == bits(result.model)


def test_a_preset_with_its_description_is_no_configuration(unchecked):
    with pytest.raises(ja.InputError, match=r'config is a tuple, .*PRESETS\["mini"\]\[1\]'):
        ja.train(ja.PRESETS["mini"])


def test_more_steps_and_errors_are_the_commands(whole, tmp_path, monkeypatch):
    text, _, _ = whole
    monkeypatch.chdir(tmp_path)
    short = dataclasses.replace(
        CONFIG, model=BigramShape(), steps=4, eval_every=4, checkpoint_every=4
    )
    first, second = (ja.train(short, data=text) for _ in range(2))
    assert first.path != second.path
    assert first.path.parent == second.path.parent
    assert first.path.name.startswith("bigram-")
    assert ja.resume(first.path, steps=8).records[-1]["step"] == 8
    with pytest.raises(ja.InputError, match="exists already"):
        ja.train(short, data=text, out=first.path)
    with pytest.raises(ja.InputError, match="is no run directory"):
        ja.resume(tmp_path)

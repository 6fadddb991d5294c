"""What can be wrong with a run's folder, and what is said: one line, exit code 2, nothing lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

import jax_attn as ja
import train
from jax_attn.runs import checksums
from jax_attn.runs.run import Run
from tests.in_process import finished_run, interrupted

pytestmark = pytest.mark.usefixtures("no_pictures")

ROOT = Path(__file__).parent.parent
RUN = ["--steps", "6", "--eval-every", "3", "--checkpoint-every", "3", "--sample-tokens", "9"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, no_pictures):
    """A finished run of six steps with checkpoints 3 and 6, and its text."""
    return finished_run(tmp_path_factory.mktemp("made"), *RUN)


@pytest.fixture
def run(made, tmp_path):
    """A copy to be spoilt."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    configured(data=str(tmp_path / "text.txt"))(tmp_path / "run")
    return tmp_path / "run"


def settings(run, change, file="config.json"):
    record = json.loads((run / file).read_text())
    change(record)
    (run / file).write_text(json.dumps(record))


def configured(**changes):
    return lambda run: settings(run, lambda record: record["config"].update(changes))


def damage(*steps):
    def do(run):
        for step in steps:
            file = next((run / "checkpoints" / step / "arrays").rglob("d/*"))
            file.write_bytes(file.read_bytes()[:10])

    return do


def another_text(run):
    path = run.parent / "text.txt"
    path.write_text(path.read_text().replace("fox", "cat"))


def vocabulary(**record):
    return lambda run: (run / "tokenizer.json").write_text(json.dumps(record))


def nested(run):
    (run / "config.json").write_text('{"config":' * 100_000)


def another_hash(run):
    settings(run, lambda record: record["corpus"].update(sha256="ab" * 32))


def write(file, content):
    return lambda run: (run / file).write_bytes(content)


def remove(file):
    return lambda run: (run / file).unlink()


def lock_is_a_folder(run):
    (run / "lock").unlink(missing_ok=True)
    (run / "lock").mkdir()


REFUSED = {
    "no configuration": (remove("config.json"), "is no run directory: it has no config.json"),
    "half a configuration": (write("config.json", b'{"config": {'), "config.json is damaged (Exp"),
    "a configuration that is no text": (write("config.json", b"\xff\xfe"), "config.json is dama"),
    "a configuration nested without end": (nested, "config.json is damaged (nested too deeply)"),
    "an unknown setting": (configured(stepz=6), "configuration: there is no setting 'stepz'"),
    "a setting of the wrong type": (configured(steps="six"), "configuration: steps is 'six'"),
    "an impossible setting": (configured(batch_size=0), "batch_size is 0; it must be greater than"),
    "another setting": (
        configured(batch_size=16, seed=7),
        "is not as checkpoint 6 was trained: batch_size is 16 instead of 32; seed is 7 instead of "
        "1337; copies of its config.json and tokenizer.json are in ",
    ),
    "another precision": (configured(precision="high"), "precision is 'high' instead of 'default'"),
    "a type that is to be chosen": (configured(dtype="auto"), "configuration: dtype is 'auto'"),
    "another model": (
        configured(model={"kind": "head", "n_embd": 10**9, "head_size": 10**9}),
        "model.head_size is 1000000000 instead of None; model.kind is 'head' instead of 'bigram'",
    ),
    "no tokenizer": (remove("tokenizer.json"), "tokenizer.json: there is no such tokenizer file"),
    "half a tokenizer": (write("tokenizer.json", b'{"char'), "not a tokenizer file"),
    "another tokenizer": (
        vocabulary(kind="characters", characters="~\n abcdefghijklmnopqrstuvwxyz"),
        "tokenizer.json has 29 symbols '~\\n abcdefghijklmnopq'… instead of 28 symbols '\\n abcd",
    ),
    "a tokenizer of another kind": (
        vocabulary(kind="bytes"),
        "tokenizer.json has bytes instead of 28 symbols '\\n abcdefghijklmnopqr'…",
    ),
    "a tokenizer of another text": (
        vocabulary(kind="characters", characters="abc"),
        "is not that of its text: characters outside the vocabulary: '\\n', ' ', 'd'",
    ),
    "no text": (lambda run: (run.parent / "text.txt").unlink(), "text.txt: there is no such file"),
    "another text": (another_text, "was trained on a text of sha256"),
    "another text, and the hash with it": (another_hash, "trained on a text of sha256 abababab"),
    "no whole checkpoint": (damage("3", "6"), "no checkpoint is whole; to begin at step 0 again"),
    "a folder that takes no files": (
        lock_is_a_folder, "cannot be written to (Is a directory); see to its room and permissions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(call, run, what):
    spoil, message = REFUSED[what]
    spoil(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, _, err = call(train.main, "--resume", run, "--steps", 9)
    assert code == 2
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("train.py: error: ")
    assert message in err
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    changed = {path.name for path in before.keys() | after.keys()
               if before.get(path) != after.get(path)}  # fmt: skip
    assert changed <= {"lock"}


def torn_metrics(run):
    lines = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(lines[:-20])


def older_versions(run):
    path = run / "checkpoints" / "6"
    settings(path, lambda record: record["versions"].update(jax="0.1.2"))
    (path / "checksums.json").unlink()
    checksums.seal(path)


PASSED_OVER = {
    "a damaged checkpoint": (damage("6"), "checkpoint 6 is damaged and passed over: the file 'arr"),
    "a checkpoint without its list": (
        remove("checkpoints/6/checksums.json"),
        "checkpoint 6 is damaged and passed over: it has no checksum list",
    ),
    "other versions": (older_versions, "checkpoint 6 was written with jax 0.1.2, now "),
    "no checkpoint": (
        lambda run: shutil.rmtree(run / "checkpoints"), "no checkpoint yet: the run begins at step"
    ),
    "a torn line of metrics": (torn_metrics, "metrics.jsonl has lost the figures before step 6"),
    "no metrics": (remove("metrics.jsonl"), "metrics.jsonl has lost the figures before step 6"),
}  # fmt: skip


@pytest.mark.parametrize("what", PASSED_OVER)
def test_said_and_gone_on_with(call, run, what):
    expected = (run / "sample.txt").read_bytes()
    spoil, message = PASSED_OVER[what]
    spoil(run)
    code, out, err = call(train.main, "--resume", run)
    assert (code, err) == (0, "")
    assert message in out
    assert (run / "sample.txt").read_bytes() == expected


def test_a_run_from_before_there_was_a_precision_goes_on(call, run):
    for folder in (run, run / "checkpoints" / "3", run / "checkpoints" / "6"):
        settings(folder, lambda record: record["config"].pop("precision"))
        if (folder / "checksums.json").exists():
            (folder / "checksums.json").unlink()
            checksums.seal(folder)
    code, out, err = call(train.main, "--resume", run, "--steps", 9)
    assert (code, err) == (0, "")
    assert "step 9: batch loss" in out
    assert "damaged" not in out


def test_metrics_have_no_gap_and_no_double_after_a_fall_back(call, run):
    before = (run / "metrics.jsonl").read_text().splitlines()
    damage("6")(run)
    assert call(train.main, "--resume", run)[0] == 0
    after = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["train_loss"] for line in before] == [
        json.loads(line)["train_loss"] for line in after
    ]


def test_two_at_once_in_one_folder(call, run):
    with Run.open(run).locked():
        code, _, err = call(train.main, "--resume", run)
    assert code == 2
    assert "is being trained by another process; wait for it or stop it" in err
    assert call(train.main, "--resume", run)[0] == 0


def test_a_full_disk(call, run, monkeypatch):
    """The checkpoints before it stay, and the run goes on when there is room."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 1000))
    code, _, err = call(train.main, "--resume", run, "--steps", 9)
    assert code == 2
    assert "cannot be written to (No space left on device); see to its room" in err
    assert len(err.strip().splitlines()) == 1
    monkeypatch.undo()
    assert {"3", "6"} <= {path.name for path in (run / "checkpoints").iterdir()}
    code, out, _ = call(train.main, "--resume", run)
    assert code == 0
    assert "step 9: batch loss" in out


def test_a_file_that_may_grow_no_further(text, tmp_path):
    """The operating system refuses in the middle of a write: in TensorStore's threads.

    They may add a line of their own afterwards, when they find their event loop closed.
    """
    arguments = ["bigram", *RUN, "--data", text, "--out", tmp_path / "run"]
    child = subprocess.run(
        ["bash", "-c", 'ulimit -f 2; exec "$@"', "bash", sys.executable, "train.py",
         *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == 2
    assert "cannot be written to (File too large)" in child.stderr


def test_a_folder_without_permission(call, run, monkeypatch):
    """Root may write anywhere, so the system's answer is played."""

    def refuse(*_, **__):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    code, _, err = call(train.main, "--resume", run)
    assert code == 2
    assert "cannot be written to (Permission denied); see to its room and permissions" in err


def test_not_a_number_keeps_and_names_the_last_good_checkpoint(call, text, tmp_path, blows_up):
    arguments = [*blows_up, *RUN, "--data", text]
    code, out, _ = call(train.main, *arguments, "--out", tmp_path / "run")
    assert code == 1
    assert "is not finite" in out
    assert "try a smaller --learning-rate" in out
    for value in ja.to_state_dict(ja.load_model(tmp_path / "run")).values():
        assert np.isfinite(value).all()
    kept = tmp_path / "run" / "checkpoints" / "3"
    assert f"The state before it is kept in {kept}" in out
    assert f"which operation it is: python train.py --resume {tmp_path / 'run'} --debug-nans" in out
    code, out, _ = call(train.main, "--resume", tmp_path / "run", "--debug-nans")
    assert code == 1
    assert "step 4: invalid value (nan) encountered in " in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_saving(call, text, tmp_path, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with interrupted(3, number):
        code, out, _ = call(train.main, "bigram", *RUN, "--data", text, "--out", tmp_path / "run")
    assert code == 128 + number
    assert "stopped at step 3; go on with: python train.py --resume" in out
    assert (tmp_path / "run" / "checkpoints" / "3" / "checksums.json").exists()
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]


def test_a_second_signal_ends_at_once_even_inside_a_long_call():
    code = (
        "import os, signal, time, jax_attn.runs.stopping as s\n"
        "with s.StopOnSignal(lambda line: None) as stop:\n"
        "    stop.begin()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    while stop.signal is None: time.sleep(0.01)\n"
        "    print('asked', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (child.returncode, child.stdout, child.stderr) == (130, "asked\n", "")

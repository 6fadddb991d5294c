"""What happens to processes: one that draws and fails, signals, a kill, a reader who leaves."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jax_attn as ja
import train
from jax_attn.runs import ahead, session
from jax_attn.runs import painter as painters
from jax_attn.runs.painter import Painter
from tests.in_process import interrupted

ROOT = Path(__file__).parent.parent.parent
TINY = ["--steps", "4", "--eval-every", "2", "--checkpoint-every", "2", "--sample-tokens", "9"]
TINY += ["--batch-size", "2"]
BROKEN_MATPLOTLIB = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "matplotlib":
            raise ImportError("no matplotlib today")

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """Runs code in every new Python, as somebody's sitecustomize.py would."""

    def settle(code):
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return settle


def drawn(folder):
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "train_loss": 4.0}) + "\n")
    with Painter() as painter:
        painter.draw("loss", folder / "metrics.jsonl", "character", path=folder / "loss.png")
        return painter.wait()["loss.png"]


@pytest.mark.parametrize(
    ("code", "environment"),
    [
        pytest.param("import os\ndel os.nice", {}, id="Windows has no os.nice"),
        pytest.param("print('welcome')", {}, id="something else says something first"),
        pytest.param("", {"MPLBACKEND": "nonsense"}, id="a backend that does not exist"),
        pytest.param("", {"MPLCONFIGDIR": "/dev/null/x"}, id="no place for the cache"),
        pytest.param("", {"MATPLOTLIBRC": "site/usetex"}, id="settings that want LaTeX"),
    ],
)
def test_a_picture_is_drawn_all_the_same(settled, monkeypatch, tmp_path, capfd, code, environment):
    settled(code)
    (tmp_path / "site" / "usetex").write_text("text.usetex: True\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("site/", f"{tmp_path}/site/"))
    assert drawn(tmp_path) == ""
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert capfd.readouterr() == ("", "")


ENDED = "the process that draws pictures ended before its time"


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        pytest.param(BROKEN_MATPLOTLIB, "ImportError: no matplotlib today", id="no matplotlib"),
        pytest.param("import os; os._exit(3)", ENDED, id="it dies"),
        pytest.param(
            "import time; time.sleep(60)", "it is not ready after 1 seconds", id="it hangs"
        ),
    ],
)
def test_why_a_picture_is_not_drawn(settled, monkeypatch, tmp_path, code, fault):
    if "sleep" in code:
        monkeypatch.setattr(painters, "LONGEST_S", 1.0)
    settled(code)
    assert drawn(tmp_path) == fault
    assert not (tmp_path / "loss.png").exists()


def test_a_disk_without_room_leaves_no_half_picture(tmp_path):
    (tmp_path / "loss.writing.png").symlink_to("/dev/full")
    assert drawn(tmp_path) == "No space left on device"
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl"}


def test_letters_that_no_font_has_are_no_news(tmp_path, capfd):
    weights = np.array([[[[1.0, 0.0], [0.5, 0.5]]]])
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "train_loss": 2.0, "val_loss": 2.0}\n')
    with Painter() as painter:
        painter.draw("attention", weights, "中文", metrics, path=tmp_path / "attention.png")
        assert painter.wait() == {"attention.png": ""}
    assert capfd.readouterr() == ("", "")


def test_a_run_without_pictures_is_complete(call, text, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/such/python")
        patch.setattr(session, "Painter", Painter)
        given = ["bigram", *TINY, "--data", text, "--out", tmp_path / "run"]
        code, out, err = call(train.main, *given)
    assert (code, err) == (0, "")
    assert "loss.png is not drawn: the process that draws it cannot be started (" in out
    assert "--- sample" in out
    files = "config.json, tokenizer.json, metrics.jsonl, checkpoints/, sample.txt"
    assert f"in {tmp_path / 'run'}: {files}\n" in out
    assert (tmp_path / "run/checkpoints/4/checksums.json").exists()


# Signals.


@pytest.fixture
def stopped(call, text, tmp_path, no_pictures):
    """A run to which the signals come when it has made two steps."""

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests' own may be under nohup

    def run(*numbers):
        with interrupted(2, *numbers):
            return call(train.main, "bigram", *TINY, "--data", text, "--out", tmp_path / "run")

    yield run
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("numbers", "code", "named"),
    [
        pytest.param([signal.SIGINT], 130, "Ctrl-C", id="Ctrl-C"),
        pytest.param([signal.SIGTERM], 143, "SIGTERM", id="SIGTERM"),
        pytest.param([signal.SIGHUP], 129, "SIGHUP", id="the terminal hangs up"),
        pytest.param([signal.SIGHUP] * 2, 129, "SIGHUP", id="and its shell says so too"),
        pytest.param([signal.SIGTERM, signal.SIGHUP], 143, "SIGTERM", id="the session ends"),
    ],
)
def test_the_first_signal_is_answered_and_saved(stopped, tmp_path, numbers, code, named):
    found, out, _ = stopped(*numbers)
    assert found == code
    assert f"{named}: what is under way is finished and saved; once more ends at once\n" in out
    assert "stopped at step 2; go on with: python train.py --resume" in out
    assert (tmp_path / "run/checkpoints/2/checksums.json").exists()


def test_nohup_is_heeded(stopped):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    code, out, _ = stopped(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert code == 0
    assert "--- sample" in out


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        pytest.param("pass", "nothing is trained yet", id="before anything is trained"),
        pytest.param(
            "stop.begin(), stop.all_is_saved('train.py --resume RUN')",
            "all is saved; the rest: train.py --resume RUN",
            id="when all is saved",
        ),
        pytest.param("stop.opened(lambda: 'put in order')", "put in order", id="before a step"),
    ],
)
def test_where_nothing_is_to_be_saved_a_signal_ends_at_once(moment, said):
    code = (
        "import os, signal, time, jax_attn.runs.stopping as s\n"
        "with s.StopOnSignal(lambda line: print(line, flush=True)) as stop:\n"
        f"    {moment}\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (child.returncode, child.stdout, child.stderr) == (130, f"Ctrl-C: {said}\n", "")


@pytest.mark.parametrize(
    ("command", "given"),
    [
        pytest.param("generate", ["RUN", "--tokens", "100000"], id="a sample"),
        pytest.param("evaluate", ["RUN", "--data", "python-docs"], id="a loss"),
        pytest.param("lecture", [], id="the lecture"),
    ],
)
def test_what_saves_nothing_ends_at_once(command, given):
    """In the middle of a compilation Python hears of no signal, and dies of it when it ends."""
    code = (
        "import runpy, signal, sys, time, jax_attn.compiling.backend as backend\n"
        "backend.require_device = lambda: (signal.raise_signal(signal.SIGINT), print('went on'))\n"
        f"sys.argv = ['', *{given}]\n"
        f"runpy.run_module('jax_attn.{command}', run_name='__main__', alter_sys=True)\n"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (child.returncode, child.stdout, child.stderr) == (-signal.SIGINT, "", "")


# Whole processes.


def start(*given, **more):
    return subprocess.Popen(
        [sys.executable, "train.py", *map(str, given)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
    )  # fmt: skip


def test_killed_while_the_first_chunk_is_compiled(call, text, tmp_path, no_pictures):
    run = tmp_path / "run"
    with start("bigram", *TINY, "--data", text, "--out", run) as process:
        assert any(line.startswith("run ") for line in process.stdout)
        process.kill()
    assert not (run / "checkpoints").exists()
    code, out, err = call(train.main, "--resume", run)
    assert (code, err) == (0, "")
    assert "no checkpoint yet: the run begins at step 0" in out
    assert (run / "sample.txt").exists()


COMPILES_FOR_EVER = (
    "import sys, time, jax_attn.runs.ahead as ahead, train\n"
    "ahead.compile_training = lambda *_: time.sleep(60)\n"
    "sys.exit(train.main())\n"
)


def stopped_while_compiling(*given):
    """The exit code and the last line of train.py that hears Ctrl-C before its first step."""
    command = [sys.executable, "-c", COMPILES_FOR_EVER, *map(str, given)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert any(line.startswith("run ") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        (line,) = process.stdout.read().splitlines()
    return process.returncode, line


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def test_stopped_before_its_first_step_a_new_run_leaves_nothing(text, tmp_path):
    run = tmp_path / "run"
    code, line = stopped_while_compiling("bigram", *TINY, "--data", text, "--out", run)
    assert (code, line) == (130, f"Ctrl-C: nothing is trained yet; {run} is removed")
    assert not run.exists()


def test_and_one_that_exists_is_as_it_was(call, text, tmp_path, no_pictures):
    run, further = tmp_path / "run", tmp_path / "further"
    assert call(train.main, "bigram", *TINY, "--data", text, "--out", run)[0] == 0
    before = contents(run)
    as_it_was = "Ctrl-C: no step was made; the run is as it was: python train.py --resume"
    assert stopped_while_compiling("--resume", run, "--steps", 9) == (130, f"{as_it_was} {run}")
    assert contents(run) == before

    given = ["bigram", *TINY, "--data", text, "--init", run, "--out", further]
    assert stopped_while_compiling(*given) == (130, f"{as_it_was} {further}")
    assert (further / "checkpoints/0/checksums.json").exists()
    code, _, err = call(train.main, "--resume", further)
    assert (code, err) == (0, "")


def test_a_notebooks_too(text, tmp_path, monkeypatch, capsys, no_pictures):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ahead, "compile_training", interrupted)
    config = dataclasses.replace(ja.PRESETS["bigram"][1], steps=4, data=str(text))
    with pytest.raises(KeyboardInterrupt):
        ja.train(config, out=tmp_path / "run")
    assert capsys.readouterr().out.endswith(f"trained yet; {tmp_path / 'run'} is removed\n")
    assert not (tmp_path / "run").exists()


def test_a_reader_who_leaves_costs_nothing(text, tmp_path):
    run = tmp_path / "run"
    with start("bigram", *TINY, "--data", text, "--out", run) as process:
        assert process.stdout.readline().startswith("model ")
        process.stdout.close()
        said = process.stderr.read()
    line = f"standard output cannot be written to (Broken pipe): the run goes on in {run}\n"
    assert (process.returncode, said) == (0, line)
    assert (run / "sample.txt").exists()
    assert (run / "loss.png").exists()


def test_a_full_disk_under_both_outputs_costs_nothing(text, tmp_path):
    run = tmp_path / "run"
    given = ["bigram", *TINY, "--data", text, "--out", run]
    with open("/dev/full", "w") as full:
        code = subprocess.run(
            [sys.executable, "train.py", *map(str, given)], cwd=ROOT, stdout=full, stderr=full
        ).returncode
    assert code == 0
    assert (run / "sample.txt").exists()

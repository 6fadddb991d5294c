"""What a run prints can be typed, what is named as its source is one, and messages are bounded."""

import json
import re
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import jax_attn as ja
import train
from jax_attn.generate import __main__ as generate_cli
from jax_attn.runs import commands
from jax_attn.runs.build_model import build_model
from jax_attn.runs.run import Run
from tests.came_to import bits
from tests.in_process import NO_NEWLINE, SHORT, interrupted, one_line

pytestmark = pytest.mark.usefixtures("no_pictures")

COMMAND = re.compile(r"python (?:train\.py|-m jax_attn\.generate) .*")


@pytest.fixture
def folder(short, tmp_path):
    """A copy to be spoilt."""
    shutil.copytree(short, tmp_path, dirs_exist_ok=True)
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    record["config"]["data"] = str(tmp_path / "text.txt")
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    return tmp_path


def typed(call, command):
    """What a shell makes of a command that was printed, done in this process."""
    _, program, *arguments = shlex.split(command)
    if program == "-m":
        assert arguments.pop(0) == "jax_attn.generate"
        return call(generate_cli.main, *arguments)
    assert Path(program).samefile(commands.SCRIPT)
    return call(train.main, *arguments)


# Commands that are printed work as they stand.


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("run", id="a plain name"),
        pytest.param("my first run", id="spaces"),
        pytest.param('it\'s $HOME `x` \\ "*?#" & [!]', id="all that a shell reads"),
        pytest.param("-run", id="a leading dash"),
        pytest.param("läuft", id="a letter beyond ASCII"),
    ],
)
def test_commands_can_be_pasted(call, tmp_path, monkeypatch, name):
    """Of a run that is stopped, gone on with and sampled from, in the folder where it is."""
    monkeypatch.setattr(commands, "SCRIPT", tmp_path / "train.py")
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(NO_NEWLINE)
    with interrupted(2, signal.SIGINT):
        code, out, _ = call(train.main, "bigram", *SHORT, "--data", "text.txt", f"--out={name}")
    assert code == 130
    (go_on,) = COMMAND.findall(out)
    code, out, err = typed(call, go_on)
    assert (code, err) == (0, "")
    (again,) = COMMAND.findall(out)
    code, out, err = typed(call, again)
    assert (code, err) == (0, "")
    assert len(out) == 1 + 5 + 1  # from the symbol of id 0: the text has no newline
    assert Path(name, "sample.txt").read_text()[0] == out[0] == " "


def test_a_command_finds_its_script_from_any_folder(folder, monkeypatch):
    root = commands.SCRIPT.parent
    monkeypatch.chdir(root)
    assert commands.resume_command(folder) == f"python train.py --resume {folder}"
    monkeypatch.chdir(folder)
    assert commands.resume_command(Path("a b")) == f"python {root}/train.py --resume 'a b'"


def test_a_refusal_that_names_a_command(call, folder):
    """A folder that is taken, one that cannot be written to, and a checkpoint in a run's place."""
    line = one_line(call(train.main, "bigram", *SHORT, "--data", folder / "text.txt",
                         "--out", folder / "run"))  # fmt: skip
    assert f"--resume {folder / 'run'}" in line
    checkpoint = folder / "run" / "checkpoints" / "2"
    before = sorted(path.name for path in checkpoint.iterdir())
    line = one_line(call(train.main, "--resume", checkpoint))
    assert "is a checkpoint; what goes on is its run: python train.py --resume" in line
    assert sorted(path.name for path in checkpoint.iterdir()) == before
    assert typed(call, COMMAND.findall(line)[0])[0] == 0


# A kept checkpoint is a source.


def test_a_checkpoint_is_a_source(call, folder, monkeypatch):
    run = folder / "run"
    newest, second = (ja.load_model(run / "checkpoints" / step) for step in ("4", "2"))
    assert bits(newest) == bits(ja.load_model(run))
    assert bits(newest) != bits(second)
    shutil.copytree(run / "checkpoints" / "2", folder / "kept[2]\\")
    shutil.rmtree(run / "checkpoints" / "4")
    assert bits(second) == bits(ja.load_model(run)) == bits(ja.load_model(folder / "kept[2]\\"))
    texts = []
    for source in (run, run / "checkpoints" / "2", folder / "kept[2]\\"):
        code, out, err = call(generate_cli.main, source, "--tokens", 20)
        assert (code, err) == (0, "")
        texts.append(out)
    monkeypatch.chdir(run / "checkpoints" / "2")
    texts.append(call(generate_cli.main, ".", "--tokens", 20)[1])
    assert len(set(texts)) == 1


def test_a_damaged_checkpoint_is_none(call, folder):
    checkpoint = folder / "run" / "checkpoints" / "2"
    (checkpoint / "tokenizer.json").write_text('{"characters": " abc"}')
    line = one_line(call(generate_cli.main, checkpoint, "--prompt", "a"))
    assert f"checkpoint {checkpoint} is damaged: the file 'tokenizer.json' is not as it" in line


# A path that is not there, or another one than is meant.


@pytest.mark.parametrize(
    ("path", "of_a_run", "of_a_source"),
    [
        pytest.param("nowhere", "nowhere: there is no such folder; a run is",
            "nowhere: there is no such file or folder; give a run that", id="not there"),
        pytest.param("run/nowhere", "nowhere: there is no such folder",
            "nowhere: there is no such file or folder; give a run that", id="not in a run"),
        pytest.param("text.txt", "text.txt: is a file; a run is the folder",
            "text.txt is neither a safetensors file nor one of torch.save", id="a text"),
        pytest.param("run/config.json", "config.json: is a file",
            "config.json is neither a safetensors file nor one of", id="a file of the run"),
        pytest.param("run/checkpoints", "has no config.json; the run is {}/run", None,
            id="checkpoints"),
        pytest.param("run/checkpoints/2/arrays", "the run is {}/run/checkpoints/2", None,
            id="arrays"),
        pytest.param("run/checkpoints/9", "there is no such folder",
            "9: there is no such checkpoint; kept are those of steps 2, 4",
            id="no such checkpoint"),
        pytest.param(".", "has no config.json; it holds the runs run", None, id="a folder of runs"),
        pytest.param("x" * 5000, "there is no such folder", "there is no such file or folder",
            id="a name without end"),
    ],
)  # fmt: skip
def test_what_is_no_run_is_said(call, folder, path, of_a_run, of_a_source):
    """None: of a source is said what is of a run."""
    of_a_run, of_a_source = of_a_run.format(folder), (of_a_source or of_a_run).format(folder)
    assert of_a_run in one_line(call(train.main, "--resume", folder / path))
    assert of_a_source in one_line(call(generate_cli.main, folder / path))
    for function, said in ((ja.load_model, of_a_source), (ja.resume, of_a_run)):
        with pytest.raises(ja.InputError) as caught:
            function(folder / path)
        assert said in str(caught.value)


def test_many_runs_in_a_folder_are_not_all_named(folder):
    for n in range(9):
        (folder / f"run{n}").mkdir()
        (folder / f"run{n}" / "config.json").touch()
    with pytest.raises(ja.InputError, match=r"it holds the runs run, run0, run1 and 7 more$"):
        ja.load_model(folder)


# A text that was moved.


def test_a_text_that_was_moved(call, folder):
    run = folder / "run"
    (folder / "text.txt").rename(folder / "moved to.txt")
    line = one_line(call(train.main, "--resume", run, "--steps", 6))
    assert "text.txt: there is no such file any more; " in line
    command = COMMAND.findall(line)[0].replace("PATH", shlex.quote(str(folder / "moved to.txt")))
    code, _, err = typed(call, f"{command} --steps 6")
    assert (code, err) == (0, "")
    assert Run.open(run).config.data == str(folder / "moved to.txt")
    assert ja.resume(run).records[-1]["step"] == 6
    (folder / "moved to.txt").rename(folder / "again.txt")
    assert ja.resume(run, data=folder / "again.txt", steps=8).records[-1]["step"] == 8


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param("other.txt", "now has ", id="another text"),
        pytest.param("nowhere.txt", "nowhere.txt: there is no such file;", id="not there"),
        pytest.param("python-docs", "python-docs now has ", id="a corpus by its name"),
        pytest.param(".", "now has ", id="a folder that has it beside another"),
    ],
)
def test_another_text_is_refused_and_nothing_changed(call, folder, data, said):
    (folder / "other.txt").write_text(NO_NEWLINE.replace("fox", "cat"))
    before = (folder / "run" / "config.json").read_bytes()
    data = data if data == "python-docs" else folder / data
    line = one_line(call(train.main, "--resume", folder / "run", "--data", data, "--steps", 6))
    assert said in line
    assert (folder / "run" / "config.json").read_bytes() == before


# Messages that do not grow with the data; ids without a symbol.

MANY = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))


def refused(call):
    with pytest.raises(ja.InputError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        pytest.param(
            lambda: ja.CharTokenizer(MANY).encode("a"), "and 2,900 more", id="a vocabulary"
        ),
        pytest.param(
            lambda: ja.CharTokenizer("ab").encode(MANY), "and 2,990 more", id="of a prompt"
        ),
        pytest.param(
            lambda: ja.CharTokenizer("ab").decode(np.arange(9**5)), "[2, 3, 4", id="of ids"
        ),
        pytest.param(
            lambda: ja.TrainConfig.from_dict({"model": {"kind": MANY}}), "not a train", id="a kind"
        ),
        pytest.param(lambda: ja.load_corpus(MANY, print), "not the text", id="a text for a path"),
    ],
)
def test_a_message_has_its_bound(call, said):
    message = refused(call)
    assert said in message
    assert len(message) < 1000


def test_a_preset_that_is_a_text(call):
    assert "is unknown; choose bigram" in one_line(call(train.main, NO_NEWLINE))


def test_a_small_vocabulary_is_named_whole():
    with pytest.raises(ja.InputError, match=r"'Z'; the model knows only 'abc'$"):
        ja.CharTokenizer("abc").encode("Z")


@pytest.mark.parametrize("rng", ["jax", "torch"])
def test_ids_that_stand_for_nothing_are_never_drawn(call, short, tmp_path, monkeypatch, rng):
    """As of a model that has GPT-2's vocabulary, on a text of few symbols."""
    monkeypatch.setattr("jax_attn.runs.run.build_model", lambda config, _: build_model(config, 900))
    arguments = ["--data", short / "text.txt", "--out", tmp_path / "run", "--rng", rng]
    assert call(train.main, "bigram", *SHORT, "--sample-tokens", 40, *arguments)[0] == 0
    symbols = set((short / "text.txt").read_text()) | {"\n"}
    sample = (tmp_path / "run" / "sample.txt").read_text()
    assert set(sample) <= symbols
    assert len(sample) == 42
    code, out, err = call(generate_cli.main, tmp_path / "run", "--tokens", 40)
    assert (code, err, len(out)) == (0, "", 42)
    assert set(out) <= symbols

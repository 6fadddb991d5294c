"""What a console does to what is said: texts shown otherwise, readers gone, names twice."""

import errno
import io
import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import jax_attn as ja
import train
from benchmarks import __main__ as benchmarks_cli
from jax_attn.console import LastingStream, VerbatimConsole, command
from jax_attn.data import load_corpus
from jax_attn.generate import __main__ as generate_cli
from jax_attn.lecture import __main__ as lecture_cli
from jax_attn.runs import session
from jax_attn.runs.commands import generate_command
from jax_attn.runs.presets import PRESETS
from jax_attn.runs.run import FolderTaken, Run
from jax_attn.runs.run_console import RunConsole
from parity_tests import __main__ as parity_cli
from parity_tests.suite import output
from parity_tests.suite.ladder import Failure, RungResult

pytestmark = pytest.mark.usefixtures("no_pictures")

TEXT = "the :smile: of [bold]a fox[/bold] … 中文\n" * 40
TINY = ["--steps", "4", "--eval-every", "2", "--checkpoint-every", "2", "--sample-tokens", "60"]
TINY += ["--batch-size", "2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, no_pictures):
    """A finished run in a folder whose name a console could take for something else."""
    folder = tmp_path_factory.mktemp("console")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        run = folder / "run:fox:[red]"
        patch.setattr(sys, "argv", ["train.py", *arguments(folder), "--out", str(run)])
        patch.setattr(sys, "stdout", said := io.StringIO())
        assert train.main() == 0
    return run, said.getvalue()


def arguments(folder):
    return ["bigram", *TINY, "--data", str(folder / "text.txt")]


class Console(io.TextIOWrapper):
    """A standard output of some encoding, that takes so many writes and then fails."""

    def __init__(self, encoding="utf-8", fails=None, after=0):
        super().__init__(io.BytesIO(), encoding=encoding)
        self._fails, self._left = fails, after

    def write(self, text):
        if self._fails is not None:
            self._left -= 1
            if self._left < 0:
                raise self._fails
        return super().write(text)

    def shown(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


# What is printed is what is.


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(":smile: :fox:", id="names of pictures"),
        pytest.param("[bold]x[/bold] [/] [link=a]", id="marks of styles"),
        pytest.param("runs/:fox:[red]/" + "long" * 60, id="a path longer than a line"),
        pytest.param("a\ttab, 'quotes', 12.5, \\[x]", id="what could be highlighted"),
        pytest.param("\a\b\x1b[31mred\r\v\f\x00\x7f", id="control characters"),
    ],
)
@pytest.mark.parametrize("console", [VerbatimConsole, RunConsole])
def test_words_are_shown_verbatim(capsys, console, words):
    console().print(words)
    assert capsys.readouterr().out == words + "\n"


def test_a_run_shows_its_sample_and_its_folder_verbatim(made):
    run, said = made
    assert f"\n--- sample {'-' * 61}" + (run / "sample.txt").read_text("utf-8")[:-1] in said
    assert f"run      {run}\n" in said
    assert f"the same sample: {generate_command(run)} --tokens 60 --seed 1337\n" in said


def test_a_difference_is_shown_verbatim(capsys):
    failure = Failure("block[0] :fox:", "[bold]0.1[/bold]")
    result = RungResult("data", 1, 2.0, "block[0]", 0.0, (failure,), False, 1.0)
    output.print_ladder(VerbatimConsole(width=170), [result])
    assert "\ndata block[0] :fox:\n[bold]0.1[/bold]\n" in capsys.readouterr().out


# A console that cannot show a character.


@pytest.mark.parametrize(
    ("encoding", "words", "shown"),
    [
        pytest.param("ascii", "sha256 86c4… 8 × 64", "sha256 86c4... 8 x 64", id="own signs"),
        pytest.param("ascii", "中é", r"\u4e2d\xe9", id="a text in ascii"),
        pytest.param("cp1252", "…中é", r"...\u4e2dé", id="a text on an old Windows"),
        pytest.param("latin-1", "ä…", "ä...", id="a text in Latin 1"),
        pytest.param("utf-8", "…中é", "…中é", id="a text in UTF-8"),
    ],
)
def test_a_character_that_is_not_there_is_written_out(monkeypatch, encoding, words, shown):
    console = Console(encoding)
    monkeypatch.setattr(sys, "stdout", console)
    assert command("x", lambda: print(words) or 0) == 0
    assert console.shown() == shown + "\n"


def test_a_name_with_bytes_that_are_no_characters_is_shown_as_it_is(monkeypatch):
    console = Console()
    monkeypatch.setattr(sys, "stdout", console)
    assert command("x", lambda: print("run\udcff") or 0) == 0
    assert console.buffer.getvalue() == b"run\xff\n"


def _generate(made):
    return generate_cli.main, [made[0], "--tokens", 5, "--prompt", "…"]


COMMANDS = [
    pytest.param(lambda made: (train.main, ["--resume", made[0]]), id="train.py --resume"),
    pytest.param(lambda made: (train.main, ["--help"]), id="train.py --help"),
    pytest.param(lambda made: (train.main, ["mini", "--help"]), id="train.py mini --help"),
    pytest.param(_generate, id="generate"),
    pytest.param(lambda made: (generate_cli.main, ["--help"]), id="generate --help"),
    pytest.param(lambda made: (parity_cli.main, ["--help"]), id="parity_tests --help"),
    pytest.param(lambda made: (benchmarks_cli.main, ["--help"]), id="benchmarks --help"),
]


def called(monkeypatch, main, *given):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, given)])
    try:
        return main()
    except SystemExit as stop:
        return stop.code


HELPS = [(generate_cli.Arguments, "__doc__")]
HELPS += [(program, "DESCRIPTION") for program in (parity_cli, benchmarks_cli)]


@pytest.mark.parametrize("program", COMMANDS)
def test_every_command_speaks_ascii(monkeypatch, made, program):
    for owner, name in HELPS:  # of which some have no other signs now
        monkeypatch.setattr(owner, name, f"{getattr(owner, name)} …")
    console = Console("ascii")
    monkeypatch.setattr(sys, "stdout", console)
    main, given = program(made)
    assert called(monkeypatch, main, *given) == 0
    assert console.shown()


# Output that cannot be written.

GONE = OSError(errno.EPIPE, os.strerror(errno.EPIPE))
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
HUNG_UP = OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(
    ("fault", "after"),
    [
        pytest.param(GONE, 0, id="nobody reads"),
        pytest.param(GONE, 5, id="the reader has seen enough"),
        pytest.param(FULL, 3, id="no room"),
        pytest.param(HUNG_UP, 3, id="the terminal is gone"),
    ],
)
def test_training_goes_on_without_its_output(monkeypatch, made, tmp_path, fault, after):
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Console(fails=fault, after=after))
    monkeypatch.setattr(sys, "stderr", errors)
    given = [*arguments(made[0].parent), "--out", tmp_path / "run"]
    assert called(monkeypatch, train.main, *given) == 0
    assert (tmp_path / "run/checkpoints/4/checksums.json").exists()
    assert (tmp_path / "run/sample.txt").read_bytes() == (made[0] / "sample.txt").read_bytes()
    (line,) = errors.getvalue().splitlines()
    assert line.startswith(f"standard output cannot be written to ({fault.strerror}): the run goes")
    assert after == 0 or str(tmp_path / "run") in line or after < 5


def test_training_goes_on_without_any_output(monkeypatch, made, tmp_path):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Console(fails=FULL))
    given = [*arguments(made[0].parent), "--out", tmp_path / "run"]
    assert called(monkeypatch, train.main, *given) == 0
    assert (tmp_path / "run/sample.txt").exists()


@pytest.mark.parametrize("stream", [None, "closed"], ids=["closed at start", "closed by somebody"])
def test_training_goes_on_where_output_is_closed(monkeypatch, made, tmp_path, stream):
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    given = [*arguments(made[0].parent), "--out", tmp_path / "run"]
    assert called(monkeypatch, train.main, *given) == 0
    assert (tmp_path / "run/sample.txt").exists()


def test_the_function_goes_on_too_and_leaves_the_stream_as_it_was(monkeypatch, made, tmp_path):
    console = Console(fails=GONE, after=2)
    monkeypatch.setattr(sys, "stdout", console)
    config = PRESETS["bigram"][1]
    config = ja.TrainConfig.from_dict(
        config.to_dict() | {"steps": 4, "eval_every": 2, "checkpoint_every": 2, "batch_size": 2}
    )
    result = ja.train(config, data=made[0].parent / "text.txt", out=tmp_path / "run")
    assert result.records[-1]["step"] == 4
    assert sys.stdout is console


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        pytest.param(GONE, 141, "", id="nobody reads"),
        pytest.param(
            FULL,
            2,
            "error: standard output cannot be written to (No space left on device)",
            id="no room",
        ),
    ],
)
@pytest.mark.parametrize(
    "program", [*COMMANDS[1:], pytest.param(lambda made: (lecture_cli.main, []), id="lecture")]
)
def test_whose_output_is_what_is_wanted_ends(monkeypatch, made, program, fault, code, said):
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Console(fails=fault))
    monkeypatch.setattr(sys, "stderr", errors)
    main, given = program(made)
    assert called(monkeypatch, main, *given) == code
    assert said in errors.getvalue()
    assert len(errors.getvalue().splitlines()) == len(said.splitlines())


def test_a_faulty_stream_is_asked_once():
    faults = []
    stream = LastingStream(Console(fails=FULL), faults.append)
    assert [stream.write("abc"), stream.write("de")] == [3, 2]
    stream.flush()
    assert faults == [FULL]


# Noise.


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "live"),
    [
        pytest.param(Terminal, {"TERM": "xterm"}, True, id="a terminal"),
        pytest.param(Terminal, {"TERM": "dumb"}, False, id="a dumb terminal"),
        pytest.param(io.StringIO, {"FORCE_COLOR": "1"}, False, id="colours into a file"),
        pytest.param(
            io.StringIO, {"TTY_COMPATIBLE": "1"}, False, id="a service that knows colours"
        ),
        pytest.param(Terminal, {"TERM": "xterm", "FORCE_COLOR": "1"}, True, id="colours"),
    ],
)
def test_lines_are_drawn_anew_on_terminals_only(monkeypatch, stream, environment, live):
    for name in ("TERM", "FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", stream())
    assert VerbatimConsole().live is live


def test_no_cursor_codes_in_a_file(call, made, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    code, out, err = call(train.main, "--resume", made[0])
    assert (code, err) == (0, "")
    assert "nothing left to train; more: python train.py --resume" in out
    assert "\x1b" not in out


# Names.


def test_runs_of_one_second_never_collide(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus = load_corpus(str(made[0].parent / "text.txt"), warn=print)
    config = PRESETS["bigram"][1]
    together = threading.Barrier(8)

    def create(_):
        together.wait()
        return session._create("bigram", config, corpus, None).path

    with ThreadPoolExecutor(8) as threads:
        paths = set(threads.map(create, range(8)))
    assert len(paths) == 8
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {p.name for p in paths}
    assert all(re.fullmatch(r"bigram-\d{8}-\d{6}(-\d)?", path.name) for path in paths)
    assert all((path / "config.json").exists() for path in paths)


def test_a_folder_that_another_process_makes_first_is_taken(made, monkeypatch):
    corpus = load_corpus(str(made[0].parent / "text.txt"), warn=print)
    before = sorted(made[0].parent.iterdir())
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False)  # not yet, when it was looked
    with pytest.raises(FolderTaken, match="exists already; choose another --out"):
        Run.create(made[0], PRESETS["bigram"][1], corpus)
    assert sorted(made[0].parent.iterdir()) == before

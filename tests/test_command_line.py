"""train.py and python -m jax_attn.generate, as a user calls them."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_attn as ja
import train
from jax_attn.generate import __main__ as generate_cli
from jax_attn.runs import command_line, session
from jax_attn.runs.painter import Painter
from jax_attn.runs.report import EVALUATION_TOKENS
from jax_attn.runs.run import Run
from tests.came_to import bits, records
from tests.in_process import interrupted

pytestmark = pytest.mark.usefixtures("no_pictures")

ROOT = Path(__file__).parent.parent
TINY = ["--steps", "6", "--eval-every", "3", "--checkpoint-every", "3", "--sample-tokens", "40"]
TINY_GPT = ["--model.n-layer", "1", "--model.n-head", "2", "--model.n-embd", "8",
            "--model.dropout-rate", "0.2", "--block-size", "16", "--batch-size", "4",
            "--dtype", "bfloat16"]  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "more"),
    # A GPT from end to end is in test_train.py.
    [
        ("bigram", ["--accumulate-steps", "2"]),
        ("bigram", ["--rng", "torch", "--dtype", "bfloat16"]),
        ("head", ["--dtype", "bfloat16"]),
    ],
)
def test_a_run_from_end_to_end(call, text, tmp_path, monkeypatch, preset, more):
    monkeypatch.setattr(session, "Painter", Painter)
    out_dir = tmp_path / "run"
    code, out, err = call(train.main, preset, "--data", text, "--out", out_dir, *TINY, *more)
    assert (code, err) == (0, "")
    for said in ("model ", "device ", "corpus ", "compiled ", "validation loss", "--- sample"):
        assert said in out

    names = {path.name for path in out_dir.iterdir()} - {"lock"}
    expected = {
        "config.json", "tokenizer.json", "metrics.jsonl", "checkpoints", "sample.txt", "loss.png",
    }  # fmt: skip
    assert names == (expected if preset == "bigram" else expected | {"attention.png"})
    for picture in out_dir.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    metrics = Run.open(out_dir).metrics.records()
    assert metrics[-1]["step"] == 6
    assert {"train_loss", "val_loss", "tokens_per_second", "learning_rate", "elapsed_s"} <= set(
        metrics[-1]
    )
    assert [m["step"] for m in metrics if "val_loss" in m] == [3, 6]
    record = json.loads((out_dir / "config.json").read_text())
    assert record["corpus"]["characters"] == 44 * 40
    assert len(record["corpus"]["sha256"]) == 64
    assert len((out_dir / "sample.txt").read_text()) == 1 + 40 + 1

    # The model of the run is the one that was measured.
    corpus = ja.load_corpus(str(text), warn=print)
    block_size = record["config"]["block_size"]
    loss = ja.evaluate(
        ja.load_model(out_dir),
        jnp.asarray(corpus.validation),
        block_size=block_size,
        batch_size=EVALUATION_TOKENS // block_size,
    )
    assert loss == pytest.approx(metrics[-1]["val_loss"], rel=1e-5)

    code, out, err = call(
        generate_cli.main, out_dir, "--prompt", "the q", "--tokens", 20, "--temperature", 0.8,
        "--top-k", 3,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert out.startswith("the q")
    assert len(out) == 5 + 20 + 1


def test_the_same_seed_gives_the_same_bits_also_when_interrupted_and_resumed(call, text, tmp_path):
    arguments = [*TINY, *TINY_GPT, "--data", text]
    for name in ("whole", "again"):
        assert call(train.main, *arguments, "--out", tmp_path / name)[0] == 0

    with interrupted(3, signal.SIGINT):
        code, out, _ = call(train.main, *arguments, "--out", tmp_path / "broken")
    assert code == 130
    assert f"python train.py --resume {tmp_path / 'broken'}" in out
    assert call(train.main, "--resume", tmp_path / "broken")[0] == 0

    def came_to(name):
        run = tmp_path / name
        return bits(ja.load_model(run)), records(run), (run / "sample.txt").read_text()

    assert came_to("whole") == came_to("again") == came_to("broken")


def test_a_finished_run_goes_on_to_more_steps(call, text, tmp_path):
    arguments = ["--steps", 3, "--eval-every", 3, "--checkpoint-every", 3, "--sample-tokens", 9]
    run = tmp_path / "run"
    assert call(train.main, "bigram", *arguments, "--data", text, "--out", run)[0] == 0
    before = Run.open(run).metrics.records()
    assert call(train.main, "--resume", run, "--steps", 6)[0] == 0
    after = Run.open(run).metrics.records()
    assert [record["step"] for record in after] == [3, 6]
    assert after[:1] == before  # with its times: not trained anew


class TestBadInput:
    """One clear line on standard error, exit code 2, nothing made or overwritten."""

    def refused(self, result, *said):
        code, _, err = result
        assert code == 2
        assert "Traceback" not in err
        assert len(err.strip().splitlines()) == 1, err
        for words in said:
            assert words in err

    def test_a_missing_file(self, call, tmp_path):
        result = call(train.main, "--data", tmp_path / "no.txt", "--out", tmp_path / "run")
        self.refused(result, "no.txt: there is no such file")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "the file is empty"),
            (b"\xff\xfe\x00", "not a UTF-8 text"),
            (b"short", "too few for block_size 64"),
        ],
    )
    def test_a_file_that_is_no_corpus(self, call, tmp_path, content, said):
        (tmp_path / "bad.txt").write_bytes(content)
        result = call(train.main, "--data", tmp_path / "bad.txt", "--out", tmp_path / "run")
        self.refused(result, "bad.txt", said)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--model.n-head", "3"], "n_embd 128 is not divisible by n_head 3"),
            (["--steps", "0"], "steps is 0; it must be greater than 0"),
            (["--batch-size", "-1"], "batch_size is -1"),
            (["--block-size", "0"], "block_size is 0"),
            (["--model.n-layer", "0"], "n_layer is 0"),
            (["--learning-rate", "nan"], "learning_rate is nan"),
            (["--learning-rate", "1e38"], "learning_rate is 1e+38; it must be at most 1e+06"),
            (["--learning-rate", "1e3"], "is above 1: a step would decay past zero"),
            (["--model.dropout-rate", "1.5"], "dropout_rate is 1.5"),
            (["--batch-size", "12", "--accumulate-steps", "5"], "not divisible by"),
            (["--seed", "-1"], "seed is -1"),
            (["medium"], "preset 'medium' is unknown; choose bigram, head, mini"),
        ],
    )
    def test_impossible_settings(self, call, arguments, said, unchecked):
        self.refused(call(train.main, *arguments), said)

    def test_an_unknown_flag_brings_a_suggestion(self, call):
        said = "--stepz is not known here; perhaps --steps is meant; all flags: python train.py "
        self.refused(call(train.main, "--stepz", "3"), f"{said}mini --help")
        self.refused(call(train.main, "head", "--stepz", "3"), f"{said}head --help")

    def test_an_existing_run_directory(self, call, text, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "precious").write_text("mine")
        result = call(train.main, "--data", text, "--block-size", 8, "--out", tmp_path / "run")
        self.refused(result, "exists already", "--resume")
        assert [p.name for p in (tmp_path / "run").iterdir()] == ["precious"]

    def test_a_run_directory_that_cannot_be_made(self, call, text, tmp_path):
        (tmp_path / "file").write_text("")
        out = tmp_path / "file" / "run"
        result = call(train.main, "--data", text, "--block-size", 8, "--out", out)
        self.refused(result, "cannot be made")

    def test_resuming_what_is_no_run(self, call, tmp_path):
        self.refused(call(train.main, "--resume", tmp_path / "no"), "there is no such folder")
        self.refused(call(train.main, "--resume", tmp_path), "is no run directory")
        self.refused(call(generate_cli.main, tmp_path), "is no run directory")

    def test_prompts_and_sampling_settings(self, call, text, tmp_path):
        run = tmp_path / "run"
        assert call(train.main, "bigram", *TINY, "--data", text, "--out", run)[0] == 0
        for arguments, said in (
            (["--prompt", "ROMEO€"], "characters outside the vocabulary: 'E', 'M', 'O', 'R', '€'"),
            (["--prompt", ""], "the prompt is empty"),
            (["--tokens", "0"], "--tokens is 0"),
            (["--temperature", "-1"], "temperature is -1.0; it must be at least 0"),
            (["--top-k", "0"], "top_k is 0; it must be greater than 0"),
        ):
            self.refused(call(generate_cli.main, run, *arguments), said)


def test_text_printed_as_it_is_made_is_the_whole_text(call, text, tmp_path):
    run = tmp_path / "run"
    assert call(train.main, "bigram", *TINY, "--data", text, "--out", run)[0] == 0
    n = 2 * generate_cli.CHUNK + 3
    code, out, err = call(generate_cli.main, run, "--prompt", "fox", "--tokens", n, "--seed", 4)
    assert (code, err) == (0, "")
    tokenizer = ja.CharTokenizer.load(run / "tokenizer.json")
    prompt = jnp.asarray(tokenizer.encode("fox"), jnp.int32)[None]
    tokens = ja.generate(ja.load_model(run), prompt, n, key=jax.random.key(4))
    assert out == tokenizer.decode(np.asarray(tokens[0])) + "\n"


def test_as_a_program_and_plain_lines_without_a_terminal(text, tmp_path):
    """One real process: exit code, no escape sequences, no traceback."""
    arguments = ["bigram", *TINY, "--data", text, "--out", tmp_path / "run"]
    run = subprocess.run(
        [sys.executable, ROOT / "train.py", *map(str, arguments)], capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "\x1b" not in run.stdout
    assert "step 6: batch loss" in run.stdout
    again = subprocess.run(
        [sys.executable, ROOT / "train.py", *map(str, arguments)], capture_output=True, text=True
    )
    assert again.returncode == 2
    assert again.stderr.startswith("train.py: error: ")
    sample = subprocess.run(
        [sys.executable, "-m", "jax_attn.generate", tmp_path / "run", "--tokens", "5"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (sample.returncode, sample.stderr) == (0, "")


WITHOUT = """
import sys, runpy
for name in {missing}:
    sys.modules[name] = None
sys.argv = {argv}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def without(missing, argv, **environment):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing, argv=list(map(str, argv)))],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    ("program", "missing"),
    [("train.py", "tyro"), ("jax_attn/generate/__main__.py", "docstring_parser")],
)
def test_a_command_line_that_cannot_be_read_is_one_line(program, missing):
    run = without([missing], [program])
    assert (run.returncode, run.stdout) == (2, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"error: {missing} is not installed")
    assert line.endswith("pip install tyro")


def test_a_run_needs_neither_a_downloader_nor_the_platforms_folders(tmp_path):
    arguments = ["bigram", *TINY, "--out", tmp_path / "run"]
    home = {"JAX_ATTN_CACHE": "", "HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    run = without(["pooch", "platformdirs"], ["train.py", *arguments], **home)
    assert (run.returncode, run.stderr) == (0, "")
    assert "pooch is not installed" in run.stdout
    assert (tmp_path / "run" / "sample.txt").exists()


def test_help_tells_of_presets_and_resuming(call):
    code, out, _ = call(train.main, "--help")
    assert code == 0
    for word in ("bigram", "head", "mini", "lecture", "gpt2", "(without one: mini)", "--resume"):
        assert word in out
    assert "required" not in out
    flags = {flag.removeprefix("--") for flag in re.findall(r"--[\w.-]+", out)}
    others = {"resume", "help", "init", "plan", "out", "flag"}
    assert flags - others <= command_line._settings()
    assert len(flags) > 20
    code, out, _ = call(train.main, "gpt2", "--help")
    for words in (
        "--dtype {auto,float32,bfloat16}",
        "--precision {default,high,highest}",
        "as few as",
    ):
        assert words in out
    code, out, _ = call(train.main, "mini", "--help")
    for flag in ("--data", "--steps", "--model.n-layer", "--learning-rate", "--dtype", "--out"):
        assert flag in out

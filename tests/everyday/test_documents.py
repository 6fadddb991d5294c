"""Every block of code of every document runs as it stands, and every command is one."""

import argparse
import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest
import tyro

import jax_attn as ja
from jax_attn.config import GPTShape
from jax_attn.runs.command_line import parse_arguments

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted(
    path for path in ROOT.rglob("*.md") if not any(p.startswith(".") for p in path.parts[1:])
)
TINY = {
    "model": GPTShape(n_layer=1, n_head=2, n_embd=8),
    "batch_size": 2,
    "block_size": 8,
    "eval_every": 250,
    "checkpoint_every": 500,
    "sample_tokens": 20,
}
A_RUN = "runs/mini-…"  # how a document names the reader's own


def blocks(document, language):
    text = document.read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for of, block in fenced if of == language]


def test_there_are_documents_with_code():
    assert ROOT / "README.md" in DOCUMENTS
    with_code = [document.parent.name for document in DOCUMENTS if blocks(document, "python")]
    # Those of the parity harness run, and print what they say, in its test_harness_pages.
    assert set(with_code) == {ROOT.name, "parity_tests", "harness"}


def test_the_readmes_python_runs_as_it_stands(tmp_path, monkeypatch, text, no_pictures):
    """In order and in one process, on a preset made small; the run of one block is the next's."""
    about, preset = ja.PRESETS["mini"]
    small = dataclasses.replace(preset, data=str(text), **TINY)
    monkeypatch.setitem(ja.PRESETS, "mini", (about, small))
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), names)
        if "result" in names and not Path(A_RUN).exists():
            Path(A_RUN).symlink_to(Path(names["result"].path).absolute())
    assert names["head"].weights(names["x"]).shape == (4, 8, 8)
    shape = names["model"].token_embedding_table.embedding.shape
    assert shape == (65, 65)


def commands():
    """Each line of each block for a shell that runs Python, without what stands around it."""
    for document in DOCUMENTS:
        for block in blocks(document, ""):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split("&&") if "python " in line else ():
                    words = shlex.split(part, comments=True)
                    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                        words = words[1:]
                    if words[:1] == ["python"]:
                        yield tuple(words[1:])


class Parsed(Exception):
    """The arguments are known to their program."""


def stop_after(parse):
    def parse_and_stop(*given, **how):
        parse(*given, **how)
        raise Parsed

    return parse_and_stop


@pytest.mark.parametrize("command", sorted(set(commands())), ids=" ".join)
def test_a_shells_command_is_known_to_its_program(command, monkeypatch):
    if command[0] == "train.py":
        assert parse_arguments(list(command[1:]))
        return
    assert command[0] == "-m"
    try:
        program = importlib.import_module(f"{command[1]}.__main__")
    except ModuleNotFoundError:
        program = importlib.import_module(command[1])
    monkeypatch.setattr(tyro, "cli", stop_after(tyro.cli))
    for parse in ("parse_args", "parse_intermixed_args"):
        original = getattr(argparse.ArgumentParser, parse)
        monkeypatch.setattr(argparse.ArgumentParser, parse, stop_after(original))
    monkeypatch.setattr("sys.argv", ["program", *command[2:]])
    if command[1] == "jax_attn.lecture":  # takes none
        assert len(command) == 2
        return
    with pytest.raises(Parsed):
        program.main()


def test_a_wrong_command_would_be_seen(monkeypatch):
    with pytest.raises(SystemExit):
        parse_arguments(["mini", "--stepz", "3"])
    assert ("train.py", "--resume", A_RUN) in set(commands())

"""How long a program takes is said before its work."""

import importlib
import json
import os
import sys

import pytest

from benchmarks import suite
from benchmarks.estimate import MINUTES
from parity_tests import __main__ as ladder_program


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        pytest.param([], "about 35 minutes on two cores\n", id="all"),
        pytest.param(["memory"], "about a minute on two cores\n", id="one"),
        pytest.param(["memory", "bigram"], "about 3 minutes on two cores\n", id="two"),
    ],
)
def test_every_benchmark_says_first_how_long_it_takes(monkeypatch, call, tmp_path, asked, said):
    def begin(name):
        raise RuntimeError(f"{name} has begun")
        yield

    monkeypatch.setattr("benchmarks.__main__.measure_roofline", lambda: None)
    monkeypatch.setattr("benchmarks.__main__.describe_machine", lambda _: {})
    for name in suite.BENCHMARKS:
        monkeypatch.setitem(suite.BENCHMARKS, name, lambda name=name: begin(name))
    path = tmp_path / "figures.json"
    arguments = [*asked, "--json", path]
    code, out, _ = call(importlib.import_module("benchmarks.__main__").main, *arguments)
    assert code == 1
    assert out.startswith(said)
    for name in asked or suite.BENCHMARKS:
        minutes = "a minute" if MINUTES[name] == 1 else f"{MINUTES[name]} minutes"
        assert out.index(f"{name}: about {minutes} on two cores") < out.index(f"{name} has begun")
        assert f"{name} took 0 s" in out
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["seconds"] == dict.fromkeys(asked or suite.BENCHMARKS, 0)


def test_the_minutes_of_all_are_those_of_each():
    assert suite.BENCHMARKS.keys() <= MINUTES.keys()
    assert sum(MINUTES[name] for name in suite.BENCHMARKS) == 35


class Begun(Exception):
    """The work has begun."""


def begun(*_, **__):
    raise Begun


@pytest.mark.parametrize(
    ("name", "work", "arguments", "said"),
    [
        pytest.param("growth", "attention", ["."], "about 4 minutes on two cores", id="growth"),
        pytest.param("checkpoint", "measure", [], "about a minute on two cores", id="checkpoint"),
        pytest.param("rounded_logits", "texts", [], "about a minute on two cores", id="logits"),
        pytest.param("plans", "make", ["new"], "30 pairs to make: about 32 minutes", id="plans"),
        pytest.param(
            "plans", "make", ["new", "gpt2", "tpu-v6e"], "1 pairs to make: about 6", id="a plan"
        ),
        pytest.param("device.__main__", "parts", ["a"], "at most 8 minutes", id="device"),
        pytest.param(
            "device.__main__", "parts", ["a", "gpt2", "attention"], "at most 3 minutes", id="parts"
        ),
        pytest.param(
            "device.__main__", "parts", ["a", "parity"], "at most 30 seconds", id="a part"
        ),
        pytest.param(
            "device.__main__", "parts", ["a", "--rehearse"], "at most 40 minutes", id="rehearsal"
        ),
    ],
)
def test_how_long_it_takes_is_said_before_the_work(
    name, work, arguments, said, tmp_path, monkeypatch, capsys
):
    program = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # which one of them changes
    monkeypatch.setattr(program, work, begun)
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(Begun):
        program.main()
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], "about 3.5 minutes on two cores\n", id="the ladder"),
        pytest.param(["--mutants"], "about 10 minutes on two cores\n", id="with planted bugs"),
        pytest.param(["--seeds", "20"], "about 9.2 minutes on two cores\n", id="20 seeds"),
        pytest.param(["--rungs", "data"], "less than 3.5 minutes on two cores\n", id="a rung"),
        pytest.param(["--rungs", "data", "--mutants"], "less than 10 minutes", id="and its bugs"),
    ],
)
def test_how_long_a_proof_takes_is_said_before_it(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(ladder_program, "workers", begun)
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(Begun):
        ladder_program.main()
    assert capsys.readouterr().out.startswith(said)

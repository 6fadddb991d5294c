"""Programs beside the training: help, how long it takes, and no claim of what was not compared."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import suite
from benchmarks.estimate import MINUTES
from parity_tests import __main__ as ladder_program
from parity_tests.suite import ladder, output, page
from parity_tests.suite.ladder import RUNGS, Failure, RungResult
from parity_tests.suite.matrix import BY_NAME, NO_BUG, MutantResult, problems, within_reach
from parity_tests.suite.mutants import REGISTRY
from parity_tests.suite.mutants.baselines import RULES
from parity_tests.suite.trained import TrainedAttention

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = {
    "benchmarks.__main__": "All take about 35 minutes on two cores: bigram 2, attention 4, ",
    "benchmarks.growth": "It takes about 4 minutes on two cores.",
    "benchmarks.markdown": "Print a file of results",
    "benchmarks.plans": "All pairs: about 32 minutes on two cores, and more for the largest",
    "benchmarks.checkpoint": "It takes about a minute on two cores.",
    "benchmarks.rounded_logits": "It takes about a minute on two cores.",
    "benchmarks.device.__main__": "at most 8 minutes; appends",
    "parity_tests.__main__": "On two cores it takes about 3.5 minutes, with --mutants 10.",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_says_what_it_does_and_how_long_it_takes(name, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(importlib.import_module(name).main, "--help")
    assert code == 0
    assert PROGRAMS[name] in " ".join(out.replace("│", " ").split())
    assert not err
    assert not list(tmp_path.iterdir())  # no folder named --help


NEEDED = {  # a file or folder that these want, or they would say so and not see the flag
    f"benchmarks.{name}": ["new"] for name in ("growth", "markdown", "plans", "device.__main__")
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_flag_that_is_none_is_refused(name, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    given = [*NEEDED.get(name, []), "--nonsense", "3"]
    code, out, err = call(importlib.import_module(name).main, *given)
    assert code == 2
    assert not out
    assert "nonsense" in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


MISSING = "no-such-folder"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        pytest.param("benchmarks.markdown", ["none.json"], "cannot be read", id="no results"),
        pytest.param("benchmarks.markdown", ["."], "cannot be read", id="a folder of results"),
        pytest.param(
            "benchmarks.markdown", ["words"], "is no file of results", id="results that are none"
        ),
        pytest.param("benchmarks.plans", ["words"], "holds no plans", id="plans that are none"),
        pytest.param(
            "benchmarks.plans", ["new", "h101"], "no such name: h101; there are", id="accelerator"
        ),
        pytest.param(
            "benchmarks.plans", [f"{MISSING}/a"], "is no folder; give", id="plans nowhere"
        ),
        pytest.param("benchmarks.growth", ["words"], "words: File exists", id="folder is a file"),
        pytest.param(
            "benchmarks.__main__", ["bigramm"], "no such benchmark: bigramm", id="benchmark"
        ),
        pytest.param(
            "benchmarks.__main__",
            ["bigram", "--json", f"{MISSING}/a"],
            "is no folder; give --json another place",
            id="figures nowhere",
        ),
        pytest.param(
            "parity_tests.__main__", ["--rungs"], "--rungs names none; there are", id="no rungs"
        ),
        pytest.param(
            "parity_tests.__main__",
            ["--seeds", "few"],
            "--seeds is 'few'; it must be an integer from 1 to",
            id="seeds, a word",
        ),
        pytest.param("parity_tests.__main__", ["--seeds", "0"], "--seeds is 0; it", id="no seeds"),
        pytest.param("parity_tests.__main__", ["--jobs", "-1"], "--jobs is -1; it", id="no jobs"),
        pytest.param(
            "parity_tests.__main__",
            ["--report", f"{MISSING}/a.html"],
            "--report no-such-folder/a.html cannot be a file",
            id="page nowhere",
        ),
        pytest.param(
            "parity_tests.__main__", ["--json", "."], "--json . cannot be a file", id="figures"
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(
    name, arguments, message, tmp_path, monkeypatch, call
):
    monkeypatch.chdir(tmp_path)
    Path("words").write_text("{}", encoding="utf-8")
    code, _, err = call(importlib.import_module(name).main, *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


WITHOUT = """
import importlib.machinery
finder = importlib.machinery.PathFinder
found = finder.find_spec
finder.find_spec = lambda name, *rest: None if name == "torch" else found(name, *rest)
"""


@pytest.mark.parametrize("name", ["parity_tests", "benchmarks", "benchmarks.growth"])
def test_without_torch_a_program_says_so_in_one_line(name, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", name, str(tmp_path / "out")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert done.returncode == 2
    assert not done.stdout
    assert done.stderr.count("\n") == 1
    assert "torch" in done.stderr
    assert "pip install -e '.[test]'" in done.stderr
    assert not (tmp_path / "out").exists()


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


def result(rung, ok=True, difference=0.0):
    failures = () if ok else (Failure("check", "detail"),)
    return RungResult(rung, 3, 0.5, "", difference, failures, False, 1.0)


OTHERS = ", ".join(rung for rung in RUNGS if rung != "data")
ALL = [result(rung, difference=1e-15) for rung in RUNGS]


@pytest.mark.parametrize(
    ("results", "guilty", "said", "unsaid"),
    [
        pytest.param(
            ALL, None, ['class="good verdict">The port is the same', "1.0e-15"], "1 of", id="all"
        ),
        pytest.param(
            [result("data")],
            None,
            [
                'class="part verdict">No difference in data.',
                f"1 of {len(RUNGS)} rungs",
                "dropout, other",
            ],
            "same function",
            id="one rung",
        ),
        pytest.param(
            [result("data"), *ALL[2:3], result("gpt", ok=False)],
            "first guilty layer: blocks.0.sa <here>",
            [
                'class="bad verdict">The port differs in gpt.',
                "blocks.0.sa &lt;here&gt;",
                f"3 of {len(RUNGS)}",
            ],
            "same function",
            id="one that differs",
        ),
    ],
)
def test_the_page_claims_what_was_compared(results, guilty, said, unsaid):
    text = page.verdict(results, guilty)
    for part in said:
        assert part in text
    assert unsaid not in text


@pytest.mark.parametrize(
    ("error", "heading"),
    [
        pytest.param(1e-16, "<h2>The same attention</h2>", id="same"),
        pytest.param(1e-3, "<h2 class=bad>Attention that differs</h2>", id="differs"),
    ],
)
def test_the_heading_of_the_maps(error, heading):
    weights = np.full((1, 1, 2, 2), 0.5)
    attention = TrainedAttention("ab", 4.0, 2.0, weights, weights + error)
    assert page.attention_section(attention).startswith(heading)


def test_a_page_is_written_for_a_port_that_raises(tmp_path, monkeypatch):
    def broken():
        raise ZeroDivisionError("of the port")

    monkeypatch.setattr(page, "trained_attention", broken)
    page.write(tmp_path / "page.html", [result("gpt", ok=False)], [], "the layer")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "There is none to show: ZeroDivisionError: of the port" in text
    assert "The same attention" not in text


def test_a_failing_program_writes_the_guilty_layer_into_its_page(monkeypatch, tmp_path, call):
    monkeypatch.setattr(ladder_program, "run_task", lambda task: result(task[0], ok=False))
    monkeypatch.setattr(ladder_program, "first_guilty_layer", lambda: "guilty: blocks.0.sa")
    monkeypatch.setattr(page, "trained_attention", lambda: 1 / 0)
    monkeypatch.setattr("parity_tests.suite.workers.prepare", lambda *_: None)
    monkeypatch.setattr("parity_tests.suite.workers.reset_cache", lambda: None)
    path = tmp_path / "page.html"
    arguments = ["--rungs", "data", "data", "--jobs", "1", "--report", path]
    code, out, _ = call(ladder_program.main, *arguments)
    assert code == 1
    assert "guilty: blocks.0.sa" in out
    assert "guilty: blocks.0.sa" in path.read_text(encoding="utf-8")
    assert out.count("tokens, split, batches") == 1  # asked for twice, run once
    assert f"Nothing is said of the rungs that were not run: {OTHERS}" in out


def planted(name, caught=True):
    mutant = BY_NAME.get(name)
    caught = caught and mutant is not None
    rungs = {"data": "differs" if caught else "passes"}
    return MutantResult(name, rungs, dict.fromkeys(RULES, False), 0.0)


def test_bugs_of_other_rungs_are_not_tried_and_are_no_survivors():
    names = within_reach(["data"])
    assert 0 < len(names) < len(REGISTRY)
    assert {BY_NAME[name].caught_by for name in names} == {"data"}
    assert len(within_reach(list(RUNGS))) == len(REGISTRY)
    results = [planted(NO_BUG), *map(planted, names)]
    assert problems(results) == []
    left = len(REGISTRY) - len(names)
    assert output.untried(results).startswith(f"{left} bugs are not tried")
    assert problems([planted(NO_BUG), planted(names[0], caught=False)])  # a real survivor


def test_rungs_without_bugs_of_their_own_catch_nothing_and_that_is_no_problem():
    rung = next(rung for rung in RUNGS if not within_reach([rung]))
    nothing = MutantResult(NO_BUG, {rung: "passes"}, dict.fromkeys(RULES, False), 0.0)
    assert problems([nothing]) == []


def test_a_small_report_can_be_read_as_json(tmp_path):
    output.write_json(tmp_path / "a.json", [result("data")], [])
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["rungs"][0]["ok"]
    assert ladder.RUNGS["data"]

"""Programs beside the training: their help, and what they refuse before the work."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = {
    "benchmarks.__main__": "All take about 35 minutes on two cores: bigram 2, attention 4, ",
    "benchmarks.growth": "It takes about 4 minutes on two cores.",
    "benchmarks.markdown": "Print a file of results",
    "benchmarks.plans": "All pairs: about 32 minutes on two cores, and more for the largest",
    "benchmarks.checkpoint": "It takes about a minute on two cores.",
    "benchmarks.rounded_logits": "It takes about a minute on two cores.",
    "benchmarks.device.__main__": "at most 8 minutes; appends",
    "parity_tests.__main__": "On two cores it takes about 3.5 minutes, with --mutants 10, and",
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

"""The ladder as a tool: what it says of a broken port, and of bad arguments."""

import json
import subprocess
import sys

import pytest

from parity_tests.suite import guilty, ladder, page
from parity_tests.suite.mutants.attention import WEIGHTS
from parity_tests.suite.mutants.planting import Mutant, edited
from parity_tests.suite.output import write_json


@pytest.fixture
def flipped_sign():
    plant = edited(WEIGHTS, "* factor", "* -factor")
    with Mutant("flipped sign", "attention", "", "attention", plant).planted():
        yield


def test_a_flipped_sign_fails_and_its_layer_is_named(flipped_sign):
    result = ladder.run_rung("attention", [0], stop_early=True)
    assert not result.ok
    assert result.worst_ratio > 1e6
    assert "first guilty layer: blocks.0.sa " in guilty.first_guilty_layer()


def test_a_port_that_raises_is_a_failure_with_its_traceback(monkeypatch):
    def checks(seed):
        raise ZeroDivisionError("of the port")
        yield

    monkeypatch.setattr(ladder, "checks_of", lambda rung: checks)
    result = ladder.run_rung("gpt", [0])
    assert result.crashed
    assert not result.ok
    assert result.failures[0].check == "ZeroDivisionError: of the port"
    assert "Traceback" in result.failures[0].detail


def test_page_and_json_hold_every_rung(tmp_path):
    results = [ladder.run_rung(rung, [0]) for rung in ("data", "averaging")]
    assert all(result.ok for result in results)
    page.write(tmp_path / "page.html", results, [])
    text = (tmp_path / "page.html").read_text()
    assert "No difference in data, averaging." in text  # and nothing about what was not compared
    assert "The port is the same function" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert "<!-- " not in text
    write_json(tmp_path / "figures.json", results, [])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [rung["rung"] for rung in figures["rungs"]] == ["data", "averaging"]
    assert figures["rungs"][0]["ok"]


def test_bad_arguments_get_one_line():
    """As a program; in the tests' own process there are more of them."""
    command = [sys.executable, "-m", "parity_tests", "--rungs", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such rung: nonsense; there are bridge, layouts, data" in done.stderr
    assert "Traceback" not in done.stderr

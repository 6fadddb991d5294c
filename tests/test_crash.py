"""The short form of `python -m tests.crash`: some kills, and faults that it must find."""

import shutil

import pytest

from tests.crash.killing import Killer
from tests.crash.scenario import TEXT, Scenario, differences, finished

SCENARIO = Scenario(steps=12, eval_every=4, checkpoint_every=1)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A finished run, and what it came to."""
    folder = tmp_path_factory.mktemp("crash")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    process = SCENARIO.start(folder / "text.txt", folder / "alone", folder / "alone.log")
    assert process.wait(120) == 0, (folder / "alone.log").read_text()
    return folder, finished(folder / "alone")


def test_a_killed_run_comes_to_the_same_bits(alone):
    folder, expected = alone
    killer = Killer(SCENARIO, folder / "text.txt", folder / "killed", seed=4, most=4)
    killer.until_done(training_s=3.0)
    assert killer.kills.total() > 0
    assert differences(expected, finished(folder / "killed")) == []


@pytest.mark.parametrize("fault", ["random-state", "step"])
def test_the_suite_finds(alone, fault):
    """The finished run set back to its next to last checkpoint, and gone on with."""
    folder, expected = alone
    run, log = folder / fault, folder / f"{fault}.log"
    shutil.copytree(folder / "alone", run)
    shutil.rmtree(run / "checkpoints" / "12")
    process = SCENARIO.start(folder / "text.txt", run, log, fault)
    assert process.wait(120) == 0, log.read_text()
    found = differences(expected, finished(run))
    assert "metrics" in found
    assert any(name.startswith("state.params") for name in found)

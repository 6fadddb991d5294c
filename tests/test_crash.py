"""The short form of `python -m tests.crash`: some kills, and faults that it must find."""

import shutil

import pytest

from jax_attn.runs.checkpoint import Checkpoints
from tests.crash.killing import Killer
from tests.crash.planted import FAULTS
from tests.crash.scenario import TEXT, Scenario, differences, finished
from tests.in_process import train_here

pytestmark = pytest.mark.usefixtures("no_pictures")

SCENARIO = Scenario(steps=12, eval_every=4, checkpoint_every=1)


def finished_here(folder, name):
    """What the scenario starts as a process, in this one: runs of it share their programs."""
    train_here(*SCENARIO.arguments(folder / "text.txt", folder / name))
    return finished(folder / name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, no_pictures):
    """A finished run, and what it came to."""
    folder = tmp_path_factory.mktemp("crash")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder, finished_here(folder, "alone")


def test_a_killed_run_comes_to_the_same_bits(alone):
    """Real processes: one killed when it has written a checkpoint, one asked to end in training."""
    folder, expected = alone
    killer = Killer(SCENARIO, folder / "text.txt", folder / "killed", seed=275, most=2)
    killer.until_done(training_s=3.0)
    assert killer.kills.total() > 0
    assert differences(expected, finished(folder / "killed")) == []


@pytest.mark.parametrize("fault", [None, "random-state", "step"])
def test_the_suite_finds(alone, monkeypatch, fault):
    """The finished run set back to its next to last checkpoint, and gone on with."""
    folder, expected = alone
    shutil.copytree(folder / "alone", folder / str(fault))
    shutil.rmtree(folder / str(fault) / "checkpoints" / "12")
    monkeypatch.setattr(Checkpoints, "restore", Checkpoints.restore)  # to be put back
    if fault is not None:
        FAULTS[fault]()
    found = differences(expected, finished_here(folder, str(fault)))
    assert ("metrics" in found) is (fault is not None)
    assert any(name.startswith("state.params") for name in found) is (fault is not None)

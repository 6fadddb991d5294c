"""A line on a terminal of what takes long, and nothing anywhere else."""

import io
import sys
import time

import pytest

from parity_tests import locate
from parity_tests.harness import progress
from parity_tests.harness.progress import Progress
from parity_tests.small_pairs import X, pair


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(terminal: io.StringIO) -> list[str]:
    return [line.strip() for line in terminal.getvalue().split("\r") if line.strip()]


def wait_for(terminal: io.StringIO) -> None:
    deadline = time.monotonic() + 30
    while not terminal.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_phases_are_counted_and_the_line_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "AFTER_S", 0.0)
    with Progress("locate") as told:
        told.now("the port runs")
        wait_for(terminal)
        assert list(told.each("forward", ["fc", "out"])) == ["fc", "out"]
    seen = [line.rpartition(" (")[0] for line in lines(terminal)]
    assert seen[-1] == "locate: forward, 2 of 2 layers"
    assert "locate: forward, 1 of 2 layers" in seen
    assert terminal.getvalue().endswith(f"\r{'':{progress.WIDTH}}\r")


@pytest.mark.parametrize("live", [True, False])
def test_nothing_of_what_is_quick_or_where_no_terminal_is(
    live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal() if live else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "AFTER_S", 60.0 if live else 0.0)
    with Progress("locate") as told:
        told.now("the port runs")
        time.sleep(0.05)
    assert stream.getvalue() == ""


def test_locate_tells_what_it_does(monkeypatch: pytest.MonkeyPatch, in_float64: None) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "AFTER_S", 0.0)
    locate(*pair(lambda m, x: m.fc(x), lambda m, x: m.fc(x)), X, {"fc": "fc"})
    phases = " ".join(lines(terminal))
    assert "locate: backward, each layer alone, 2 of 2 layers (" in phases
    assert "locate: the port runs (" in phases

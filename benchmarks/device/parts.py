"""The parts of the run in the order of their worth, and the seconds that each may take."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.device.runner import Part

SECONDS = 480.0  # of the whole run

# What each part measures is told in its module. The limits add up to SECONDS.
LIMITS = {
    "ceilings": 30.0,
    "operations": 75.0,
    "attention": 35.0,
    "gpt2": 150.0,
    "profiling": 35.0,
    "product": 85.0,
    "decoding": 40.0,
    "parity": 30.0,
}
# Only in the time that the others have left.
IF_TIME_IS_LEFT = {"larger_batch": 120.0}
NEEDED = 60.0  # seconds without which those are not begun
SLOWER = 5.0  # times as long may a rehearsal take: its CPU may be anyone's


def parts(names: list[str], path: Path, run: str, rehearse: bool) -> list[Part]:
    """The parts of these names, or all of them if there are none."""

    def command(name: str) -> tuple[str, ...]:
        arguments = [name, str(path), run, *(["--rehearse"] if rehearse else [])]
        return sys.executable, "-m", "benchmarks.device.part", *arguments

    times = SLOWER if rehearse else 1.0
    chosen = [Part(name, command(name), times * limit) for name, limit in LIMITS.items()]
    chosen += [
        Part(name, command(name), times * limit, NEEDED) for name, limit in IF_TIME_IS_LEFT.items()
    ]
    return [part for part in chosen if not names or part.name in names]

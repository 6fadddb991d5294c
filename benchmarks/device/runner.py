"""Parts one after another, each in a process of its own and under a limit of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.device.record import Record

LEAST_SECONDS = 5.0  # with less of the whole time left no part is begun
POLL_SECONDS = 0.05
STOP = 3  # the exit code of a part after which no other makes sense
TAIL_BYTES = 1500  # of the output of a part that fails, in its record


@dataclass(frozen=True)
class Part:
    """A command and the seconds it may take."""

    name: str
    command: tuple[str, ...]
    limit: float
    needs: float = LEAST_SECONDS  # without so many seconds left it is not begun


def run_parts(parts: Sequence[Part], path: Path, run: str, deadline: float) -> list[str]:
    """Runs all parts, and returns the names of those that are missing.

    `deadline` is a value of time.monotonic() by which the last one has ended. A part that fails or
    runs over is recorded, and the next goes on.
    """
    begun = time.monotonic()
    missing, stopped = [], None
    for part in parts:
        record = Record(path, run, part.name)
        left = deadline - time.monotonic()
        limit = min(part.limit, left)
        print(f"--- {time.monotonic() - begun:5.0f} s  {part.name}, {limit:.0f} s", flush=True)
        seconds = 0.0
        if stopped is not None:
            problem: str | None = f"not begun: {stopped} has found that it is of no use"
        elif left < part.needs:
            problem = f"not begun: {left:.0f} s were left, it needs {part.needs:.0f}"
        else:
            problem, seconds, code = run_part(part, limit)
            if code == STOP:
                stopped = part.name
        if problem is None:
            record.add("seconds", seconds, "s")
        else:
            missing.append(part.name)
            record.failed("seconds", problem)
    print(f"--- {time.monotonic() - begun:5.0f} s  end", flush=True)
    failed = failed_figures(path, run)
    Record(path, run, "run").add("missing parts", missing, failed_figures=failed)
    return missing


def failed_figures(path: Path, run: str) -> list[str]:
    """What the parts of a run could not measure."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [f"{x['part']}: {x['figure']}" for x in lines if x["run"] == run and "problem" in x]


def run_part(part: Part, limit: float) -> tuple[str | None, float, int | None]:
    """What went wrong, None if nothing did; the seconds it took; its exit code, None if killed."""
    begun = time.monotonic()
    # A session of its own, so that all that the part has started can be ended with it.
    process = subprocess.Popen(
        part.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    tail, code = b"", None
    try:
        while True:
            code = process.poll()
            said = process.stdout.read() or b""
            sys.stdout.write(said.decode("utf-8", errors="replace"))
            sys.stdout.flush()
            tail = (tail + said)[-TAIL_BYTES:]
            if code is not None or time.monotonic() - begun > limit:
                break
            time.sleep(POLL_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    problem = None
    if code is None:
        problem = f"ran over its {limit:.0f} s"
    elif code != 0:
        problem = f"exit code {code}"
    if problem is not None:
        problem += ": " + tail.decode("utf-8", errors="replace")
    return problem, time.monotonic() - begun, code

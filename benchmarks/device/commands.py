"""Commands that parts run, and what is recorded of them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.device.record import Record

ROOT = Path(__file__).parents[2]
TAIL = 800  # characters of what a command prints, in its record


def require_tyro() -> None:
    """RuntimeError with the remedy where the command lines cannot be parsed."""
    if importlib.util.find_spec("tyro") is None:
        raise RuntimeError(
            "tyro is missing, without which train.py and its like do not start; "
            "see benchmarks/README.md on packages to bring along"
        )


def run_command(record: Record, figure: str, *arguments: object, flags: str = "") -> bool:
    """Runs Python with `arguments` and records its seconds; whether it came to a good end.

    `flags` are added to XLA_FLAGS.
    """
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    seconds = time.perf_counter() - begun
    if done.returncode != 0:
        record.failed(figure, f"exit code {done.returncode}: {done.stdout[-2 * TAIL :]}")
        return False
    record.add(figure, seconds, "s", said=done.stdout[-TAIL:])
    return True

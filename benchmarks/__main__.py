"""`python -m benchmarks [NAME ...] [--json FILE]`: the port against torch, side by side."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table
from rich.text import Text

from benchmarks import torch_or_exit  # noqa: F401
from benchmarks.awake import cores_kept_awake
from benchmarks.estimate import MINUTES, about
from benchmarks.interleave import DifferentResult
from benchmarks.roofline import Roofline, measure_roofline
from benchmarks.rows import COLUMNS, Row
from benchmarks.suite import BENCHMARKS
from jax_attn.compiling.backend import require_device
from jax_attn.console import VerbatimConsole, command
from jax_attn.runs.tyro_or_exit import read_arguments


@dataclass(frozen=True)
class Arguments:
    """What is asked for."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(BENCHMARKS)  # which to run
    json: Path | None = None  # file for all figures
    keep_awake: bool = False  # keep the cores from falling asleep, for both sides (Linux)


DESCRIPTION = f"""Time jax_attn against torch in turns; a ratio above 1 means that it is ahead.

All take {about(*BENCHMARKS)}: {", ".join(f"{name} {MINUTES[name]}" for name in BENCHMARKS)}.
How long each took is said after it."""


def main() -> int:
    return command("benchmarks", compare)


def compare() -> int:
    arguments = read_arguments(Arguments, "benchmarks", DESCRIPTION)
    if arguments.keep_awake and not hasattr(os, "SCHED_IDLE"):
        print("benchmarks: error: --keep-awake needs Linux; leave it out", file=sys.stderr)
        return 2
    with cores_kept_awake() if arguments.keep_awake else contextlib.nullcontext():
        return run(arguments)


def run(arguments: Arguments) -> int:
    """Runs the benchmarks and prints their table; the program's exit code."""
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        print(
            f"benchmarks: error: no such benchmark: {', '.join(unknown)}; "
            f"there are {', '.join(BENCHMARKS)}",
            file=sys.stderr,
        )
        return 2
    if arguments.json and not arguments.json.parent.is_dir():
        print(
            f"benchmarks: error: {arguments.json.parent} is no folder; give --json another place",
            file=sys.stderr,
        )
        return 2
    require_device()
    goes_on = (lambda _: None) if arguments.json else None  # the file is what is wanted
    console = VerbatimConsole(goes_on)
    if not console.live:
        console = VerbatimConsole(goes_on, width=150)
    console.print(about(*arguments.names))
    machine = describe_machine(measure_roofline())
    machine["kept awake"] = arguments.keep_awake
    console.print(", ".join(f"{k} {v}" for k, v in machine.items()))
    rows: list[Row] = []
    failures: list[str] = []
    seconds: dict[str, int] = {}
    for name in arguments.names:
        console.print(Text(f"{name}: {about(name)} …", "dim"))
        begun = time.monotonic()
        try:
            for row in BENCHMARKS[name]():
                rows.append(row)
                console.print(line(row))
        except (DifferentResult, RuntimeError) as error:
            failures.append(f"{name}: {error}")
            console.print(Text.assemble((name, "bold red"), f" {error}"))
        seconds[name] = round(time.monotonic() - begun)
        console.print(Text(f"{name} took {seconds[name]} s", "dim"))
        if arguments.json:  # after every benchmark: a long run may be cut short
            record = {"machine": machine, "rows": [r.to_dict() for r in rows]}
            record |= {"failed": failures, "seconds": seconds}
            arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console.print(table_of(rows))
    return 1 if failures else 0


def describe_machine(roofline: Roofline) -> dict[str, Any]:
    """What the figures depend on, in words and numbers that say nothing of whose machine it is."""
    return {
        "date": date.today().isoformat(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "device": roofline.device,
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "torch", "numpy")},
        "matrix product GFLOP/s": round(roofline.gflops),
        "memory GB/s": round(roofline.gigabytes),
    }


def line(row: Row) -> str:
    return f"{row.name} / {row.other}: {row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})"


def table_of(rows: list[Row]) -> Table:
    table = Table(title="How many times faster (or smaller) than the other side")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("what", "other side") else "right")
    styles = {"missed": "red", "must": "green", "goal": "bold green"}
    for row in rows:
        *figures, verdict = row.cells()
        table.add_row(*figures, Text(verdict, styles[verdict]) if verdict in styles else "")
    return table


if __name__ == "__main__":
    sys.exit(main())

"""A file of results as benchmarks/README.md shows it: `python -m benchmarks.markdown FILE`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks import plans
from benchmarks.rows import COLUMNS, Row
from jax_attn.runs.tyro_or_exit import read_arguments


def markdown(record: dict[str, Any]) -> str:
    """What `python -m benchmarks --json` or `python -m benchmarks.plans` wrote."""
    return _plans(record) if "plans" in record else _ratios(record)


def _plans(record: dict[str, Any]) -> str:
    """A row for every program of every preset on every accelerator."""
    lines = [plans.COLUMNS, ("---", "---", "---", *["---:"] * (len(plans.COLUMNS) - 3))]
    for plan in record["plans"]:
        lines += plans.cells(plan)
    return f"date {record['date']}, jax {record['jax']}.\n\n" + _table(lines)


def _ratios(record: dict[str, Any]) -> str:
    """The machine, and a row for every ratio."""
    machine = ", ".join(f"{name} {value}" for name, value in record["machine"].items())
    lines = [COLUMNS, ("---", "---", *["---:"] * (len(COLUMNS) - 3), "---")]
    for figures in record["rows"]:
        given = {name: value for name, value in figures.items() if name != "verdict"}
        lines.append(Row(**given).cells())  # whose verdict follows from them
    return f"{machine}.\n\n" + _table(lines)


def _table(lines: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@dataclass(frozen=True)
class Arguments:
    """Print a file of results as benchmarks/README.md shows it."""

    file: Annotated[Path, tyro.conf.Positional]  # of `benchmarks --json`, or of `benchmarks.plans`


def main() -> int:
    file = read_arguments(Arguments, "benchmarks.markdown").file
    try:
        print(markdown(json.loads(file.read_text(encoding="utf-8"))))
    except OSError as error:
        return refuse(f"{file} cannot be read ({error.strerror})")
    except (ValueError, KeyError, TypeError):
        return refuse(f"{file} is no file of results of `benchmarks --json` or `benchmarks.plans`")
    return 0


def refuse(message: str) -> int:
    print(f"benchmarks.markdown: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

"""A file of results as benchmarks/README.md shows it: `python -m benchmarks.markdown FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import plans
from benchmarks.rows import COLUMNS, Row


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


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.markdown FILE")
    print(markdown(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))

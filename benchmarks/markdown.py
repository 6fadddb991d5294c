"""A file of results as benchmarks/README.md shows it: `python -m benchmarks.markdown FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.rows import COLUMNS, Row


def markdown(record: dict[str, Any]) -> str:
    """The machine, and a row for every ratio, of what `python -m benchmarks --json` wrote."""
    machine = ", ".join(f"{name} {value}" for name, value in record["machine"].items())
    lines = [COLUMNS, ("---", "---", *["---:"] * (len(COLUMNS) - 3), "---")]
    for figures in record["rows"]:
        given = {name: value for name, value in figures.items() if name != "verdict"}
        lines.append(Row(**given).cells())  # whose verdict follows from them
    return f"{machine}.\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.markdown FILE")
    print(markdown(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))

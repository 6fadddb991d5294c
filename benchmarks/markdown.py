"""A file of results as benchmarks/README.md shows it: `python -m benchmarks.markdown FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def markdown(record: dict[str, Any]) -> str:
    """The machine, and a row for every ratio, of what `python -m benchmarks --json` wrote."""
    machine = ", ".join(f"{name} {value}" for name, value in record["machine"].items())
    lines = [
        f"{machine}.",
        "",
        "| what | other side | ours | other | ratio (quartiles) | must | goal | |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in record["rows"]:
        cells = (
            row["name"],
            row["other"],
            f"{row['ours_value']:.3g} {row['unit']}",
            f"{row['other_value']:.3g} {row['unit']}",
            f"**{row['ratio']:.2f}** ({row['low']:.2f}–{row['high']:.2f})",
            "" if row["must"] is None else f"{row['must']:g}",
            "" if row["goal"] is None else f"{row['goal']:g}",
            row["verdict"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.markdown FILE")
    print(markdown(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))

"""The lines of JSON that a run leaves: one for each figure, on the disk as soon as it is known."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDERS = {
    "REPOSITORY": str(Path(__file__).parents[2]),
    "PYTHON": sys.prefix,
    "TEMPORARY": tempfile.gettempdir(),
}


@dataclass
class Record:
    """Appends the figures of one part to a file."""

    path: Path
    run: str  # when the run began, in UTC: lines of one run belong together
    part: str
    device: str | None = None  # the kind of it, where the part has asked

    def add(self, figure: str, value: Any, unit: str = "", **details: Any) -> None:
        """One line, with what the value depends on as `details`."""
        line: dict[str, Any] = {"run": self.run, "part": self.part}
        if self.device is not None:
            line["device"] = self.device
        line |= {"figure": figure, "value": value}
        if unit:
            line["unit"] = unit
        line |= details
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(line), ensure_ascii=False) + "\n")
        shown = f"{value:.4g}" if isinstance(value, float) else f"{value}"[:200]
        print(f"{self.part}: {figure}: {shown} {unit}".rstrip(), flush=True)

    def failed(self, figure: str, error: BaseException | str) -> None:
        """One line for a figure that could not be had, and why."""
        if isinstance(error, BaseException):
            error = f"{type(error).__name__}: {error}"
        self.add(figure, None, problem=error[:2000])


def plain(value: Any) -> Any:
    """What JSON has: NaN and infinity are written as words, and no folder of this machine."""
    if isinstance(value, dict):
        return {key: plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain(x) for x in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        for name, folder in FOLDERS.items():
            value = value.replace(f"{folder}/", f"{name}/")
    return value

"""What a run records of its steps: the lines of its `metrics.jsonl`."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Metrics:
    """The file of a run's records, which need not be there yet."""

    path: Path
    writing: Callable[[], AbstractContextManager[None]]  # around what writes: `Run.writing`

    def records(self) -> list[dict[str, Any]]:
        """The whole lines."""
        return [record for line in self._lines() if (record := _record(line))]

    def append(self, record: dict[str, Any]) -> None:
        """Adds a line."""
        line = (json.dumps(record) + "\n").encode()
        with self.writing(), self.path.open("ab", buffering=0) as file:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def amend(self, record: dict[str, Any]) -> None:
        """Writes a record in the place of that of the same step."""
        records = [record if r["step"] == record["step"] else r for r in self.records()]
        self._replace(b"".join((json.dumps(r) + "\n").encode() for r in records))

    def cut(self, step: int) -> dict[str, Any]:
        """Drops what is recorded of steps past `step`: they will be made again.

        A line torn when the run was killed goes too. Returns the last record left, or {}.
        """
        lines = self._lines()
        records = [(line, _record(line)) for line in lines]
        kept = [(line, record) for line, record in records if record and record["step"] <= step]
        if len(kept) < len(lines) or not lines:
            self._replace(b"".join(line for line, _ in kept))
        return kept[-1][1] if kept else {}

    def _lines(self) -> list[bytes]:
        try:
            return self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []

    def _replace(self, content: bytes) -> None:
        partial = self.path.with_name(self.path.name + ".writing")
        with self.writing():
            partial.write_bytes(content)
            partial.replace(self.path)


def _record(line: bytes) -> dict[str, Any] | None:
    """A line, if it is whole."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    whole = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if whole else None

"""Where a run speaks. Whatever happens to its terminal, the training goes on."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from jax_attn.console import VerbatimConsole


class RunConsole(VerbatimConsole):
    """When nobody reads any more, standard error says once that `run` goes on, and where it is."""

    def __init__(self) -> None:
        self.run: Path | None = None  # the run's folder, when there is one
        super().__init__(self._lost)

    def say(self, line: str) -> None:
        """A line, whole, however long."""
        self.print(line)

    def _lost(self, error: OSError) -> None:
        place = "" if self.run is None else f" in {self.run}"
        line = f"standard output cannot be written to ({error.strerror}): the run goes on{place}"
        with contextlib.suppress(OSError, ValueError):  # that may be as lost
            print(line, file=sys.stderr, flush=True)

"""How far an evaluation is, on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_LINE_EVERY_S = 10.0


class BatchProgress:
    """A context manager; `update` before every batch."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr, markup=False)
        self._bar = Progress(
            TextColumn("evaluating", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal or console.is_dumb_terminal or not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("evaluating")
        self._last_line = time.monotonic()

    def __enter__(self) -> BatchProgress:
        self._bar.start()
        self._bar.console.show_cursor(True)  # Ctrl-C ends the process as it is
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, of: int) -> None:
        """For `evaluate(on_batch=…)`."""
        self._bar.update(self._task, completed=done, total=of)
        now = time.monotonic()
        if self._bar.disable and now - self._last_line >= PLAIN_LINE_EVERY_S:
            self._last_line = now
            print(f"evaluating: {done:,} of {of:,} batches", file=sys.stderr, flush=True)

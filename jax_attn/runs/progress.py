"""How a run shows that it is alive: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.progress import BarColumn, Progress, TextColumn

from jax_attn.runs.run_console import RunConsole

PLAIN_LINE_EVERY_S = 10.0


class TrainingProgress:
    """A context manager; `update` after every chunk, `say` for lines that stay."""

    def __init__(self, console: RunConsole, start: int, steps: int) -> None:
        self._console = console
        self._steps = steps
        self._started_at = start
        self._began = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
            disable=not console.live,
        )
        self._task = self._bar.add_task("train", total=steps, completed=start, figures="")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        self._console.say(line)

    def update(
        self, step: int, loss: float, tokens_per_second: float, mfu: float | None = None
    ) -> None:
        """`mfu`: see jax_attn.models.flops; left out where the device's peak is not known."""
        now = time.monotonic()
        done = step - self._started_at
        left = (now - self._began) / max(done, 1) * (self._steps - step)
        used = "" if mfu is None else f"  MFU {mfu:.1%}"
        rate = f"{tokens_per_second:,.0f} tokens/s{used}"
        figures = f"batch loss {loss:.4f}  {rate}  {_clock(left)} left"
        self._bar.update(self._task, completed=step, figures=figures)
        if not self._console.live and now - self._last_line >= PLAIN_LINE_EVERY_S:
            self._last_line = now
            self.say(f"step {step:,}/{self._steps:,}  {figures}")

    def evaluating(self, done: int, of: int) -> None:
        """Before every batch of an evaluation: on the bar while there is one, else in lines."""
        figures = f"evaluating: {done:,} of {of:,} batches"
        now = time.monotonic()
        if self._bar.live.is_started:
            self._bar.update(self._task, figures=figures)
        elif now - self._last_line >= PLAIN_LINE_EVERY_S:
            self._last_line = now
            self.say(figures)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

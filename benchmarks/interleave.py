"""Timing of several sides in turns, each in a process of its own.

A machine that others use is fast one minute and slow the next, so only the ratio of runs that
lie next to each other means anything: A B A B …, and the median over the rounds. Separate processes
keep one framework's idle threads from slowing the other, and each framework from importing the
other.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

ROUNDS = 11
ROUND_SECONDS = 0.25  # work is repeated until a side's turn takes about this long


class Work(Protocol):
    """What a side does. Built once in its own process."""

    units: int  # steps, tokens or calls in one `run`

    def result(self) -> np.ndarray:
        """What the work computes, to be compared with the other sides before timing."""
        ...

    def run(self) -> None:
        """Does the work once, and returns when it is done."""
        ...


@dataclass(frozen=True)
class Timing:
    """Seconds per unit of work of every round, by side."""

    seconds: Mapping[str, list[float]]

    def median(self, side: str) -> float:
        return statistics.median(self.seconds[side])

    def ratios(self, other: str, ours: str) -> list[float]:
        """How many times faster `ours` was than `other`, round by round."""
        pairs = zip(self.seconds[other], self.seconds[ours], strict=True)
        return [a / b for a, b in pairs]


class DifferentResult(Exception):
    """Two sides that are to be compared do not compute the same thing."""


class Side:
    """A process that holds one side's work and does it when told to."""

    def __init__(self, name: str, build: Callable[[], Work]) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, question: str, *arguments: Any) -> Any:
        """The answer to "result", "calibrate", "run", or any other method of the work."""
        self._pipe.send((question, *arguments))
        try:
            kind, answer = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"the process of side {self.name!r} died") from None
        if kind == "error":
            raise RuntimeError(f"side {self.name!r} failed: {answer}")
        return answer

    def close(self) -> None:
        self._pipe.close()
        self._process.join(5)
        self._process.kill()


def compare(
    sides: Mapping[str, Callable[[], Work]],
    *,
    rtol: float | None,
    rounds: int = ROUNDS,
    round_seconds: float = ROUND_SECONDS,
) -> Timing:
    """Seconds per unit of each side, in turns.

    `sides` maps names to functions that build the work; they must be picklable. The results must
    agree with the first side's within `rtol` times its largest value, or DifferentResult is raised:
    nothing is compared that does not compute the same thing. `rtol` is None for the sides of one
    work at several sizes.
    """
    running: list[Side] = []
    try:
        for name, build in sides.items():
            running.append(Side(name, build))
        results = {side.name: side.ask("result") for side in running}
        if rtol is not None:
            _require_same(results, rtol)
        repeats = {side.name: side.ask("calibrate", round_seconds) for side in running}
        seconds: dict[str, list[float]] = {side.name: [] for side in running}
        for round_number in range(rounds):
            order = running if round_number % 2 == 0 else running[::-1]
            for side in order:
                seconds[side.name].append(side.ask("run", repeats[side.name]))
        return Timing(seconds)
    finally:
        for side in running:
            side.close()


def _require_same(results: Mapping[str, np.ndarray], rtol: float) -> None:
    first, *others = results
    expected = np.asarray(results[first], np.float64)
    for name in others:
        got = np.asarray(results[name], np.float64)
        if got.shape != expected.shape:
            raise DifferentResult(f"{first} gives {expected.shape}, {name} gives {got.shape}")
        worst = np.abs(got - expected).max() / np.abs(expected).max()
        if not worst <= rtol:
            raise DifferentResult(f"{first} and {name} differ by {worst:.1e}; allowed {rtol:.1e}")


def _serve(pipe: Connection, build: Callable[[], Work]) -> None:
    """The other process: builds the work, then answers until the pipe is closed."""
    try:
        work = build()
        while True:
            question, *arguments = pipe.recv()
            if question == "result":
                answer: Any = np.asarray(work.result())
            elif question == "calibrate":
                answer = _calibrate(work, *arguments)
            elif question == "run":
                answer = _timed(work, *arguments)
            else:
                answer = getattr(work, question)(*arguments)
            pipe.send(("answer", answer))
    except EOFError:
        return
    except Exception as error:
        pipe.send(("error", f"{type(error).__name__}: {error}"))


def _timed(work: Work, repeats: int) -> float:
    """Seconds per unit."""
    begun = time.perf_counter()
    for _ in range(repeats):
        work.run()
    return (time.perf_counter() - begun) / (repeats * work.units)


def _calibrate(work: Work, round_seconds: float) -> int:
    """How many runs fill a round; also warms up."""
    work.run()
    begun = time.perf_counter()
    work.run()
    once = time.perf_counter() - begun
    return max(1, round(round_seconds / once))

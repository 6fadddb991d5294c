"""Memory of a compiled program, and the largest batch whose program has room."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

MOST_TIMES = 64  # the batch asked about; beyond it "or more" says enough
MOST_TRIES = 4


@dataclass(frozen=True)
class Memory:
    """Bytes on the device while a program runs."""

    arguments: int
    results: int  # that are not in an argument's place
    temporaries: int
    code: int

    @classmethod
    def of(cls, compiled: jax.stages.Compiled) -> Memory:
        found: Any = compiled.memory_analysis()
        return cls(
            arguments=found.argument_size_in_bytes,
            results=found.output_size_in_bytes - found.alias_size_in_bytes,
            temporaries=found.temp_size_in_bytes,
            code=found.generated_code_size_in_bytes,
        )

    @property
    def total(self) -> int:
        return self.arguments + self.results + self.temporaries + self.code


def needed(error: BaseException) -> int | None:
    """Bytes that a TPU's compiler says it lacked; None of an error that is another one."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        return None
    sizes = re.search(r"([\d.]+)([KMG])\b", text)
    return int(float(sizes[1]) * 1024 ** (1 + "KMG".index(sizes[2]))) if sizes else None


def largest_that_fits(
    need: Callable[[int], int], first: int, first_need: int, room: int
) -> tuple[int, int] | None:
    """The largest n for which need(n), which grows about linearly, is at most `room`; its need.

    Every call of `need` is a compilation: one shows how it grows from first_need = need(first), one
    confirms what follows, and a few more mend it. From 16 on n is a multiple of 8, and it is at
    most MOST_TIMES `first`. None where not even 1 fits.
    """
    points = {first: first_need}
    guess = 2 * first if first_need < 0.4 * room else max(1, first // 2)
    for _ in range(2 + MOST_TRIES):
        if guess not in points:
            points[guess] = need(guess)
        fitting = max((n for n, x in points.items() if x <= room), default=0)
        beyond = min((n for n, x in points.items() if x > room), default=MOST_TIMES * first + 1)
        guess = min(max(_where(points, room), fitting), beyond - 1)
        guess = guess // 8 * 8 if guess >= 16 else max(guess, 1)
        if guess <= fitting or guess in points:
            break
    return (fitting, points[fitting]) if fitting else None


def _where(points: dict[int, int], room: int) -> int:
    """Where the line through the two points nearest to `room` meets it."""
    (m, x), (n, y) = sorted(points.items(), key=lambda point: abs(point[1] - room))[:2]
    slope = (y - x) / (n - m)
    return int(m + (room - x) / slope) if slope > 0 else MOST_TIMES * max(m, n)

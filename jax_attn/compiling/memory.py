"""Memory of a compiled program, and the largest batch whose program has room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

MOST_TIMES = 64  # the batch asked about; beyond it "at least" says enough
MOST_TRIES = 5


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


def out_of_memory(error: BaseException) -> bool:
    """Whether that is why a TPU's compiler gave up; a GPU's compiles what no GPU can hold."""
    return "RESOURCE_EXHAUSTED" in str(error)


def largest_that_fits(
    need: Callable[[int], int | None], first: int, first_need: int | None, room: int
) -> tuple[int, int] | None:
    """The largest n for which need(n), which grows about linearly, is at most `room`; its need.

    Every call of `need` is a compilation, None of one that failed for want of memory; there are
    MOST_TRIES of them at most, two if need(n) is quite linear. From 16 on n is a multiple of 8, and
    it is at most MOST_TIMES `first`. None where nothing was found to fit.
    """
    needs = {first: first_need}
    for _ in range(MOST_TRIES):
        fitting = max(_fitting(needs, room), default=0)
        beyond = min((n for n in needs if n > fitting), default=MOST_TIMES * first + 1)
        guess = _where(needs, room)
        if guess >= beyond:
            guess = (fitting + beyond) // 2 if beyond in needs else beyond - 1
        guess = guess // 8 * 8 if guess >= 16 else guess
        if guess <= fitting:
            break
        needs[guess] = need(guess)
    return max(_fitting(needs, room).items(), default=None)


def about_the_largest(
    need: Callable[[int], int | None], first: int, first_need: int, room: int
) -> tuple[int, int]:
    """As `largest_that_fits`, drawn from `first`, which fits, and one compilation of twice that."""
    second_need = need(2 * first)
    if second_need is None:
        return first, first_need
    most = MOST_TIMES * first
    n = min(most, _where({first: first_need, 2 * first: second_need}, room))
    n = max(first, n // 8 * 8 if n >= 16 else n)
    return n, first_need + (second_need - first_need) * (n - first) // first


def _fitting(needs: dict[int, int | None], room: int) -> dict[int, int]:
    return {n: x for n, x in needs.items() if x is not None and x <= room}


def _where(needs: dict[int, int | None], room: int) -> int:
    """About where `room` is filled."""
    known = sorted((abs(x - room), n, x) for n, x in needs.items() if x is not None)
    if not known:
        return min(needs) // 2
    _, n, x = known[0]
    if len(known) == 1:  # of what is needed for n = 0 nothing is known: as if it were nothing
        return max(1, int(0.95 * n * room / x))
    _, m, y = known[1]
    slope = (x - y) / (n - m)
    return int(n + (room - x) / slope) if slope > 0 else MOST_TIMES * max(n, m)

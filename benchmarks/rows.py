"""What one line of the table says: a ratio of two sides, and what it has to reach."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.interleave import Timing, Work, compare

OURS = "jax_attn"
COLUMNS = ("what", "other side", "ours", "other", "ratio", "quartiles", "must", "goal", "")


@dataclass(frozen=True)
class Row:
    """How many times faster (or smaller) we are than `other`; above 1 is better."""

    name: str
    other: str
    ours_value: float
    other_value: float
    unit: str  # of both values
    ratio: float  # median over the rounds
    low: float  # first quartile of the rounds' ratios
    high: float  # third quartile
    must: float | None = None
    goal: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.must is None:
            return ""
        if self.ratio < self.must:
            return "missed"
        return "goal" if self.goal is not None and self.ratio >= self.goal else "must"

    def cells(self) -> tuple[str, ...]:
        """What a table shows of it, under COLUMNS."""
        return (
            self.name,
            self.other,
            f"{self.ours_value:.3g} {self.unit}",
            f"{self.other_value:.3g} {self.unit}",
            f"{self.ratio:.2f}",
            f"{self.low:.2f}–{self.high:.2f}",
            "" if self.must is None else f"{self.must:g}",
            "" if self.goal is None else f"{self.goal:g}",
            self.verdict,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


def row(
    name: str,
    timing: Timing,
    other: str,
    *,
    unit: str = "ms",
    scale: float = 1e3,
    must: float | None = None,
    goal: float | None = None,
    note: str = "",
) -> Row:
    """The row of `other` against OURS. Values are seconds per unit of work times `scale`."""
    ratios = timing.ratios(other, OURS)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Row(
        name=name,
        other=other,
        ours_value=timing.median(OURS) * scale,
        other_value=timing.median(other) * scale,
        unit=unit,
        ratio=middle,
        low=low,
        high=high,
        must=must,
        goal=goal,
        note=note,
    )


def best(timing: Timing, others: list[str]) -> str:
    """The fastest of several other sides: the one to be compared with."""
    return min(others, key=timing.median)


def timed(
    ours: Callable[[], Work],
    others: Mapping[str, Callable[[], Work]],
    *,
    rtol: float,
    round_seconds: float = 0.25,
) -> Timing:
    """`compare` with our side first."""
    return compare({OURS: ours, **others}, rtol=rtol, round_seconds=round_seconds)


Rows = Iterator[Row]

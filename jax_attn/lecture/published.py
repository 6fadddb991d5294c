"""What a printed output is, and when a computed value is the same as it.

The notebooks are named by their file's number, 000 to 004, and the cell's `In [n]` as it stands
there; some n occur twice in a notebook, after a restart of its kernel.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

EDGE_ULPS = 4
NUMBER = re.compile(r"-?inf|-?\d+\.?\d*(?:e[+-]\d+)?|True|False")


@dataclass(frozen=True)
class Published:
    """A quantity as it was printed: a text as it stands, numbers without torch's brackets."""

    printed: str
    places: tuple[str, ...]  # "003 In [61]": notebook and cell, or the source outside of them
    decimals: int | None = None  # hold so many of the printed decimals; None: all
    note: str = ""

    @property
    def notebook_places(self) -> tuple[str, ...]:
        return tuple(place for place in self.places if place[:3].isdigit())


def published(printed: str, *places: str, decimals: int | None = None, note: str = "") -> Published:
    """Numbers: one tensor row a line, a blank line at either end being layout."""
    return Published(printed.strip("\n"), places, decimals, note)


@dataclass(frozen=True)
class Comparison:
    """A computed value beside the printed one."""

    ours: str  # laid out like the printed one, each number with the digits of its twin
    same: bool
    at_an_edge: int  # numbers printed otherwise though EDGE_ULPS would make them the same


def compare(value: Any, entry: Published) -> Comparison:
    """Digit for digit. A number printed otherwise is the same only at the edge of its last digit:

    within EDGE_ULPS units of float32's last place lies a number that is printed alike. Two correct
    computations that add in different orders part there.
    """
    if isinstance(value, str):
        return Comparison(value, value == entry.printed, 0)
    numbers = np.asarray(value, np.float64).ravel().tolist()
    printed = entry.printed
    if entry.decimals is not None:
        printed = f"{float(printed):.{entry.decimals}f}"
    tokens = NUMBER.findall(printed)
    if len(numbers) != len(tokens):
        return Comparison(str(np.asarray(value)), False, 0)
    rest = iter(numbers)
    ours = NUMBER.sub(lambda match: _like(next(rest), match[0]), printed)
    different = [
        (x, token) for x, token in zip(numbers, tokens, strict=True) if _like(x, token) != token
    ]
    edges = sum(_at_edge(x, token) for x, token in different)
    return Comparison(ours, edges == len(different), edges)


def _like(number: float, token: str) -> str:
    """`number` with as many digits as `token`, and in its notation."""
    if token in ("True", "False"):
        return str(bool(number))
    mantissa, exponent, _ = token.partition("e")
    decimals = len(mantissa.partition(".")[2])
    if exponent:
        return f"{number:.{decimals}e}"
    if decimals:
        return f"{number:.{decimals}f}"
    # torch leaves the decimals out only where every number is whole.
    whole = not np.isfinite(number) or number == int(number)
    return f"{number:.0f}{'.' if '.' in token else ''}" if whole else repr(number)


def _at_edge(number: float, token: str) -> bool:
    if not np.isfinite(number) or "." not in token:
        return False
    reach = EDGE_ULPS * float(np.spacing(np.float32(abs(number))))
    return token in (_like(number - reach, token), _like(number + reach, token))


def count_places(entries: Iterable[Published]) -> int:
    """How many printed outputs of the five notebooks the entries stand for."""
    return sum(len(entry.notebook_places) for entry in entries)


# Outputs that follow from no seed and no input that a notebook states, and why.
NOT_REPRODUCIBLE: dict[str, str] = {
    "002 In [49] x[0]": "drawn without a seed; not among the first 8e9 draws of seed 1337",
    "002 In [49] xbow[0]": "the running mean of that x",
    "002 In [49] xbow2[0]": "the running mean of that x",
    "003 In [63] <torch._C.Generator at 0x10dca6a70>": "an address in memory",
    "004 In [5] the downloader's log": "times, addresses and speeds of one download",
    "004 In [51] <built-in method type ... at 0x127388270>": "an address in memory",
}

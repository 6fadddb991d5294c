"""What a number may be, checked where it enters: settings, flags and arguments alike.

A domain has no NaN in it, and no infinity: compiled code takes either without a word, and gives
numbers that are none or a text that means nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from jax_attn.errors import InputError

LARGEST_INT32 = 2**31 - 1  # steps, places and lengths are counted in it
# Of float32's normal numbers: one nearer to 0 is rounded to it by most devices.
SMALLEST_FLOAT32, LARGEST_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127


@dataclass(frozen=True)
class Domain:
    """The numbers from `low` to `high`, the latter among them unless it says `below`."""

    low: float
    high: float
    integer: bool = False
    below: bool = False

    def check(self, name: str, value: Any) -> Any:
        """`value` as Python's own int or float; InputError, naming it, unless it is in here."""
        fault = self._fault(value)
        if fault is not None:
            shown = repr(value) if isinstance(value, str) else str(value)
            raise InputError(f"{name} is {shown:.40}; it must be {fault}")
        return int(value) if self.integer else float(value)

    def _fault(self, value: Any) -> str | None:
        """What `value` fails to be."""
        kind: Any = Integral if self.integer else Real
        words = "an integer" if self.integer else "a number"
        if isinstance(value, str):  # a flag's, that could not be read
            to = f"{'less than ' * self.below}{_shown(self.high)}"
            return f"{words} from {_shown(self.low)} to {to}"
        if isinstance(value, bool) or not isinstance(value, kind):
            return f"{words}, not {type(value).__name__}"
        if math.isnan(value):
            return words
        if value < self.low:
            return "greater than 0" if value <= 0 < self.low else f"at least {_shown(self.low)}"
        if value > self.high or (self.below and value == self.high):
            return f"{'less than' if self.below else 'at most'} {_shown(self.high)}"
        return None


def _shown(bound: float) -> str:
    short = str(bound) if isinstance(bound, int) else f"{bound:g}"
    return short if float(short) == bound else f"{bound:.8g}"


SIZE = Domain(1, LARGEST_INT32, integer=True)
COUNT = Domain(0, LARGEST_INT32, integer=True)
SEED = Domain(0, 2**32 - 1, integer=True)
FINITE = Domain(-LARGEST_FLOAT32, LARGEST_FLOAT32)
POSITIVE = Domain(SMALLEST_FLOAT32, LARGEST_FLOAT32)
NOT_NEGATIVE = Domain(0, LARGEST_FLOAT32)
FRACTION = Domain(0, 1)
OPEN_FRACTION = Domain(SMALLEST_FLOAT32, 1, below=True)
PROBABILITY = Domain(SMALLEST_FLOAT32, 1)  # of something that is not impossible
DROPOUT_RATE = Domain(0, 1, below=True)
# The largest that float32 does not round to 1, with which a running mean would never move.
DECAY_RATE = Domain(0, 1 - 2.0**-24)
# 0 is greedy. Above this Gumbel noise times it overflows, far above it nothing is left of a model.
TEMPERATURE = Domain(0, 1e30)


def require(config: Any, domain: Domain, *names: str) -> None:
    """Checks fields of a frozen dataclass, and makes plain numbers of NumPy's."""
    for name in names:
        object.__setattr__(config, name, domain.check(name, getattr(config, name)))

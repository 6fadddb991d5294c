"""Which array of one call is which of the other's: by value, by name, by shape, in this order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity_tests.harness.compare import rms
from parity_tests.harness.tensors import as_tensor

ALIKE = 1e-3  # relative rms: far above float32 rounding, far below any other array


@dataclass(frozen=True)
class Match:
    """`sure`: by value or name, or because no other array has the shape."""

    ref: int
    port: int
    sure: bool


@dataclass(frozen=True)
class Matching:
    matches: tuple[Match, ...]  # in the reference's order
    ref_left: tuple[int, ...]
    port_left: tuple[int, ...]

    @property
    def sure(self) -> bool:
        """Whether each of the port's arrays is known to be one of the reference's."""
        return not self.port_left and all(match.sure for match in self.matches)


def match_arrays(
    ref: Sequence[tuple[str, Any]], port: Sequence[tuple[str, Any]], *, shapes_may_differ: bool
) -> Matching:
    """`ref`, `port`: name and array of each, in the reference's layout.

    With `shapes_may_differ` those that are left are paired in order where they are as many: their
    shapes are then a difference of the two calls, and not of the way they are put together.
    """
    left, right = list(range(len(ref))), list(range(len(port)))
    found: list[Match] = []

    def pair(i: int, j: int, sure: bool) -> None:
        found.append(Match(i, j, sure))
        left.remove(i)
        right.remove(j)

    def pair_all(alike: Any, sure: bool) -> None:
        for i in list(left):
            candidates = [j for j in right if alike(i, j)]
            named = [j for j in candidates if port[j][0] == ref[i][0]]
            if candidates:
                pair(i, (named or candidates)[0], sure)

    pair_all(lambda i, j: _same_values(ref[i][1], port[j][1]), sure=True)
    pair_all(lambda i, j: _same_form(ref[i][1], port[j][1]) and _same_name(ref[i], port[j]), True)
    for i in list(left):
        others = [j for j in right if _same_form(ref[i][1], port[j][1])]
        rivals = [k for k in left if _same_form(ref[k][1], ref[i][1])]
        if others and len(others) == len(rivals):
            pair(i, others[0], sure=len(others) == 1 and not _was_rival(found, ref, i))
    if shapes_may_differ and len(left) == len(right):
        for i, j in zip(list(left), list(right), strict=True):
            pair(i, j, sure=len(left) == 1)
    return Matching(tuple(sorted(found, key=lambda m: m.ref)), tuple(left), tuple(right))


def _was_rival(found: Sequence[Match], ref: Sequence[tuple[str, Any]], i: int) -> bool:
    """Whether an array of the same form was paired for its place alone."""
    return any(not m.sure and _same_form(ref[m.ref][1], ref[i][1]) for m in found)


def _same_form(a: Any, b: Any) -> bool:
    return a.shape == b.shape and _sort(a) == _sort(b)


def _sort(array: Any) -> str:
    kind = array.dtype.kind
    return {"i": "integer", "u": "integer", "b": "truth"}.get(kind, "real")


def _same_name(a: tuple[str, Any], b: tuple[str, Any]) -> bool:
    """Of keywords; a position is no name."""
    return a[0] == b[0] and not a[0].replace(".", "").isdigit()


def _same_values(a: Any, b: Any) -> bool:
    if not _same_form(a, b):
        return False
    if _sort(a) != "real":
        return np.array_equal(a, b)
    a, b = as_tensor(a).values, as_tensor(b).values
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return False
    return rms(a[finite] - b[finite]) <= ALIKE * rms(a[finite])

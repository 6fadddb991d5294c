"""The literal claim: rounded to float32, the two tensors are the same bits."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from parity_tests.harness.tensors import to_numpy

BOUNDARY = 1e-13  # relative: 100 times the distance of a correct port, a millionth of a float32 ulp


@dataclass(frozen=True)
class RoundingReport:
    """Entries by what rounding to float32 made of them."""

    total: int
    at_boundary: int  # other bits, but the float64 values lie on the border between two float32s
    differing: int  # other bits with no such excuse
    first_differing: tuple[int, ...] | None

    @property
    def identical(self) -> int:
        return self.total - self.at_boundary - self.differing

    @property
    def ok(self) -> bool:
        return self.total > 0 and self.differing == 0

    def __str__(self) -> str:
        text = f"{self.identical} of {self.total} entries are the same float32 bits"
        text += f", {self.at_boundary} lie on a rounding boundary, {self.differing} differ"
        if self.first_differing is not None:
            text += f", the first at {list(self.first_differing)}"
        return text


def bit_identical_after_rounding(ref64: Any, port64: Any) -> RoundingReport:
    """Rounds two float64 arrays to float32 and compares bits; NaN equals NaN, 0 is not -0.

    Other bits are excused where both values lie within 1e-13 relative of the same midpoint between
    neighbouring float32s. ValueError unless both are float64 of one shape.
    """
    ref, port = to_numpy(ref64), to_numpy(port64)
    if ref.dtype != np.float64 or port.dtype != np.float64:
        raise ValueError(f"float64 is asked, got {ref.dtype} and {port.dtype}")
    if ref.shape != port.shape:
        raise ValueError(f"shape {ref.shape} in the reference, {port.shape} in the port")
    with np.errstate(over="ignore", under="ignore"):
        ref32, port32 = ref.astype(np.float32), port.astype(np.float32)
    other_bits = (ref32.view(np.uint32) != port32.view(np.uint32)) & ~(
        np.isnan(ref) & np.isnan(port)
    )
    with np.errstate(invalid="ignore"):
        midpoint = (ref32.astype(np.float64) + port32) / 2
        excused = (
            (ref32 != port32)  # 0 and -0 are equal: no rounding makes one of the other
            & (np.nextafter(ref32, port32) == port32)
            & (np.abs(ref - midpoint) <= BOUNDARY * np.abs(midpoint))
            & (np.abs(port - midpoint) <= BOUNDARY * np.abs(midpoint))
        )
    excused &= other_bits
    wrong = other_bits & ~excused
    first = tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.any() else None
    return RoundingReport(ref.size, int(excused.sum()), int(wrong.sum()), first)

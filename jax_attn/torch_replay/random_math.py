"""How torch's CPU build turns uniforms into normals: Box-Muller in blocks, fused multiply-adds.

The float32 log, sin and cos are Stephen Moshier's Cephes polynomials as PyTorch's `avx_mathfun.h`
(Julien Pommier, Giovanni Garberoglio) has them, with the contractions of its AVX2 build.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

BLOCK = 16  # from this many values on, torch makes normals by the block: 8 radii, then 8 angles

# fmt: off
_LOG = np.array([7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1,
                 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1,
                 3.3333331174e-1], np.float32)
_SIN = np.array([-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1], np.float32)
_COS = np.array([2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2], np.float32)
_LN2 = np.array([-2.12194440e-4, 0.693359375], np.float32)  # ln 2 in two parts
_QUARTER_PI = np.array([0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8], np.float32)
# fmt: on


def fill_blocks(
    unit: Callable[[int], Floats], box_muller: Callable[[Floats, Floats], Floats], count: int
) -> Floats:
    """At least 16 normals: blocks of 16; where a part of a block is left, the last 16 redrawn."""

    def normals(uniforms: Floats) -> Floats:
        halves = uniforms.reshape(-1, 2, BLOCK // 2)
        return box_muller(1 - halves[:, 0], halves[:, 1]).reshape(-1)

    values = unit(count)
    whole = count - count % BLOCK
    values[:whole] = normals(values[:whole])
    if whole < count:
        values[-BLOCK:] = normals(unit(BLOCK))
    return values


def box_muller64(u: Floats, turn: Floats) -> Floats:
    """u in (0, 1] and turn in [0, 1), [N 8] each -> normals [N 2 8], cosines then sines."""
    radius, angle = np.sqrt(-2 * each(math.log, u)), 2 * math.pi * turn
    return np.stack([radius * each(math.cos, angle), radius * each(math.sin, angle)], axis=1)


def box_muller32(u: Floats, turn: Floats) -> Floats:
    radius = np.sqrt(-2 * _log(u))
    sin, cos = _sin_cos(np.float32(2 * math.pi) * turn)
    return np.stack([radius * cos, radius * sin], axis=1)


def each(function: Callable[[float], float], x: Floats) -> NDArray[np.float64]:
    """The C library's function, as torch calls it; NumPy's own may differ in the last bit."""
    return np.fromiter(map(function, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def _log(u: Floats) -> Floats:
    """Cephes logf: u = m 2**e with m in [sqrt(1/2), sqrt(2)), and a polynomial in m - 1."""
    m, e = np.frexp(u)
    small = m < np.float32(math.sqrt(0.5))
    x, e = np.where(small, m + m, m) - 1, (e - small).astype(np.float32)
    square = x * x
    y = _fma(_polynomial(_LOG, x) * x, square, e * _LN2[0]) - np.float32(0.5) * square
    return x + y + e * _LN2[1]


def _sin_cos(angle: Floats) -> tuple[Floats, Floats]:
    """Cephes sinf and cosf: reduced to +-pi/4 around an even multiple j of pi/4."""
    j = ((angle * np.float32(4 / math.pi)).astype(np.int32) + 1) & ~1
    x = angle
    for part in _QUARTER_PI:
        x = _fma(-j.astype(np.float32), part, x)
    square = x * x
    sin = _fma(_polynomial(_SIN, square) * square, x, x)
    cos = _fma(_polynomial(_COS, square) * square, square, np.float32(-0.5) * square) + 1
    swap = (j & 2) != 0
    sin, cos = np.where(swap, cos, sin), np.where(swap, sin, cos)
    return np.where(j & 4, -sin, sin), np.where((j + 2) & 4, -cos, cos)


def _polynomial(coefficients: NDArray[np.float32], x: Floats) -> Floats:
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = _fma(value, x, coefficient)
    return value


def _fma(a: Floats, b: Floats | np.float32, c: Floats | np.float32) -> NDArray[np.float32]:
    """a * b + c fused in float32, up to a double rounding that none of the inputs above meets."""
    return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)


def affine(x: Floats, scale: np.float32, shift: np.float32) -> NDArray[np.float32]:
    """x * scale + shift fused in float32, for any numbers."""
    product = np.multiply(x, scale, dtype=np.float64)  # exact: 24 + 24 bits
    total = product + np.float64(shift)
    # Rounding to float64 and then to float32 may differ from rounding once. Rounding to odd first
    # may not: an inexact total becomes that of its two neighbours whose last bit is 1.
    back = total - product
    lost = (product - (total - back)) + (shift - back)
    even = total.view(np.uint64) % np.uint64(2) == 0
    towards = np.nextafter(total, np.copysign(np.inf, lost))
    return np.where(even & (lost != 0), towards, total).astype(np.float32)

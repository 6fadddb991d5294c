"""PyTorch's CPU random streams, replayed bit for bit in NumPy.

`Generator(seed)` draws what `torch.manual_seed(seed)` followed by the same calls draws: one
Mersenne Twister feeds every stream, and the second normal of a pair waits for the next call.

Reference: torch 2.13's CPU build on x86-64 with AVX2 or AVX-512. Without AVX2, torch rounds normals
and scaled uniforms otherwise (measured: normals within 3e-6, `nn.Linear` weights within 1 part in
10**7 of their range). MKL builds up to about torch 2.6 draw dropout masks, exponentials and hence
samples from an Intel generator, which is not replayed here.

Algorithms and constants follow PyTorch's `MT19937RNGEngine.h`, `DistributionsHelper.h`,
`TransformationHelper.h`, `cpu/DistributionTemplates.h`, `Distributions.cpp`, `Dropout.cpp`,
`TensorFactories.cpp` and `nn/modules/linear.py`; the float32 arithmetic is in
`torch_random_math.py`.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from operator import index
from typing import SupportsIndex

import numpy as np
from numpy.typing import DTypeLike, NDArray

from jax_attn.torch_replay.random_math import (
    BLOCK,
    Floats,
    affine,
    box_muller32,
    box_muller64,
    each,
    fill_blocks,
)

Shape = SupportsIndex | Sequence[SupportsIndex]

_WIDE_RANGE = 1 << 28  # from this range on, randint spends 64 bits a value
_RANDPERM_LIMIT = (2**32 - 1) // 20  # from this length on, torch shuffles differently


class Generator:
    """The state behind `torch.manual_seed(seed)`: every method advances it as its torch twin does.

    A shape is an int or a sequence of ints, `()` included; a shape without elements draws nothing.
    """

    def __init__(self, seed: int) -> None:
        """`seed` lies in [-2**63, 2**64) and counts modulo 2**32, both as in torch."""
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"seed must lie in [-2**63, 2**64), got {seed}")
        self._twister = np.random.RandomState(int(seed) % 2**32)
        self._waiting_normal: float | None = None

    def rand(self, shape: Shape, dtype: DTypeLike = np.float32) -> Floats:
        """U[0, 1) as `torch.rand`: multiples of 2**-24 in float32, of 2**-53 in float64."""
        size = _size(shape)
        unit = self._unit64 if _is_double(dtype) else self._unit32
        return unit(math.prod(size)).reshape(size)

    def uniform(self, low: float, high: float, shape: Shape) -> NDArray[np.float32]:
        """U[low, high) as `Tensor.uniform_`; `low == high` is allowed and gives `low`."""
        with np.errstate(over="ignore", invalid="ignore"):
            start, stop = np.float32(low), np.float32(high)
            span = stop - start
        if not (low <= high and np.isfinite(span)):
            raise ValueError(f"uniform needs low <= high in float32, got low={low}, high={high}")
        values = affine(self.rand(shape), span, start)
        return np.where(values == stop, start, values)  # rounding may reach the excluded bound

    def randn(self, shape: Shape, dtype: DTypeLike = np.float32) -> Floats:
        """N(0, 1) as `torch.randn`."""
        if not _is_double(dtype):
            return self.normal(0.0, 1.0, shape)
        size = _size(shape)
        count = math.prod(size)
        if count < BLOCK:
            return np.array(self._few_normals(count)).reshape(size)
        return fill_blocks(self._unit64, box_muller64, count).reshape(size)

    def normal(self, mean: float, std: float, shape: Shape) -> NDArray[np.float32]:
        """N(mean, std) as `Tensor.normal_` with two numbers."""
        if not (0 <= std < math.inf and math.isfinite(mean)):
            raise ValueError(f"normal needs finite mean, std >= 0, got mean={mean}, std={std}")
        size = _size(shape)
        count = math.prod(size)
        if count >= BLOCK:
            normals = fill_blocks(self._unit32, box_muller32, count)
            return affine(normals, np.float32(std), np.float32(mean)).reshape(size)
        # torch fuses z * std + mean in double: exact in fractions, rounded once.
        scale, shift = Fraction(float(std)), Fraction(float(mean))
        values = [float(Fraction(z) * scale + shift) for z in self._few_normals(count)]
        return np.array(values, np.float32).reshape(size)

    def randint(self, low: int, high: int, shape: Shape) -> NDArray[np.int64]:
        """Integers of [low, high) as `torch.randint`: remainders, slightly biased as there."""
        low, high = index(low), index(high)
        if not -(2**63) <= low < high < 2**63:
            raise ValueError(f"randint needs low < high within int64, got low={low}, high={high}")
        size = _size(shape)
        draw = self._bits32 if high - low < _WIDE_RANGE else self._bits64
        offset = draw(math.prod(size)) % np.uint64(high - low)
        # Unsigned addition wraps around, so a negative `low` may enter in two's complement.
        return (offset + np.uint64(low % 2**64)).view(np.int64).reshape(size)

    def bernoulli(self, p: float, shape: Shape) -> NDArray[np.float32]:
        """1 with probability `p`, else 0, as `Tensor.bernoulli_(p)` with a number `p`.

        `torch.bernoulli(probs)` of a float32 tensor is another stream: `rand(shape) < probs`.
        """
        if not 0 <= p <= 1:
            raise ValueError(f"a probability lies in [0, 1], got p={p}")
        size = _size(shape)
        return (self._unit64(math.prod(size)) < p).astype(np.float32).reshape(size)

    def dropout_mask(self, p: float, shape: Shape) -> NDArray[np.bool_]:
        """True where `F.dropout(x, p)` keeps `x`, which it then scales by 1 / (1 - p).

        `p` of 0 or 1 draws nothing. For a transposed `x` torch draws in memory order: ask for the
        shape before the transpose and transpose the mask.
        """
        if p in (0, 1):
            return np.full(_size(shape), p == 0)
        if not 0 < p < 1:
            raise ValueError(f"a probability lies in [0, 1], got p={p}")
        return self.bernoulli(1 - float(p), shape).astype(np.bool_)

    def exponential(self, shape: Shape, dtype: DTypeLike = np.float32) -> Floats:
        """Exponentials of rate 1 as `Tensor.exponential_`: made in double, then rounded."""
        size = _size(shape)
        rounded = np.float64 if _is_double(dtype) else np.float32
        logs = each(math.log1p, -self._unit64(math.prod(size)))
        return (-logs).astype(rounded).reshape(size)

    def multinomial(self, probs: Floats) -> NDArray[np.int64]:
        """One index a row, [B V] -> [B 1], as `torch.multinomial(probs, num_samples=1)`.

        A race: the largest weight / exponential wins. Rows are float32 or float64 weights, which
        take the same draws and round them to their own dtype; they need not sum to 1. For a
        transposed tensor torch would draw in memory order; here it is always row by row.
        """
        probs = np.asarray(probs)
        if probs.ndim != 2 or probs.shape[1] == 0:
            raise ValueError(f"multinomial needs probs [B V] with V > 0, got shape {probs.shape}")
        if not ((probs >= 0) & (probs < np.inf)).all() or not probs.any(axis=1).all():
            raise ValueError("multinomial needs finite probs >= 0 and a positive one in each row")
        draws = self.exponential(probs.shape, probs.dtype)
        with np.errstate(all="ignore"):  # a zero draw gives inf, or a NaN that wins, as in torch
            return np.argmax(probs / draws, axis=1, keepdims=True)

    def randperm(self, n: int) -> NDArray[np.int64]:
        """A permutation of 0 .. n-1 as `torch.randperm`: Fisher-Yates from the front."""
        n = index(n)
        if not 0 <= n < _RANDPERM_LIMIT:
            raise ValueError(f"randperm needs 0 <= n < {_RANDPERM_LIMIT}, got {n}")
        here = np.arange(max(n - 1, 0), dtype=np.uint64)
        there = here + self._bits32(here.size) % (np.uint64(n) - here)
        order = list(range(n))
        for i, j in enumerate(there.tolist()):
            order[i], order[j] = order[j], order[i]
        return np.array(order, np.int64)

    def linear(
        self, in_features: int, out_features: int, bias: bool = True
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """How `nn.Linear(in_features, out_features, bias)` starts: weight [out in], bias [out].

        Both U(-b, b) with b = 1 / sqrt(in_features), weight first; without bias, None.
        """
        if in_features < 1 or out_features < 1:
            raise ValueError(f"linear needs positive sizes, got {in_features}, {out_features}")
        # torch's detour over kaiming_uniform_(a=sqrt(5)) gives the same bound in float32.
        bound = 1 / math.sqrt(in_features)
        weight = self.uniform(-bound, bound, (out_features, in_features))
        return weight, self.uniform(-bound, bound, out_features) if bias else None

    def embedding(self, num: int, dim: int) -> NDArray[np.float32]:
        """How `nn.Embedding(num, dim)` starts: N(0, 1), [num dim]."""
        return self.normal(0.0, 1.0, (num, dim))

    def _bits32(self, count: int) -> NDArray[np.uint64]:
        return self._twister.randint(0, 1 << 32, count, np.uint32).astype(np.uint64)

    def _bits64(self, count: int) -> NDArray[np.uint64]:
        halves = self._bits32(2 * count)
        return (halves[0::2] << np.uint64(32)) | halves[1::2]

    def _unit32(self, count: int) -> NDArray[np.float32]:
        return (self._bits32(count) % np.uint64(2**24)).astype(np.float32) * np.float32(2**-24)

    def _unit64(self, count: int) -> NDArray[np.float64]:
        return (self._bits64(count) % np.uint64(2**53)).astype(np.float64) * 2**-53

    def _few_normals(self, count: int) -> list[float]:
        """Fewer than 16 normals: pairs in double, cosine first; a left-over sine waits."""
        values: list[float] = []
        for _ in range(count):
            if self._waiting_normal is None:
                turn, tail = self._unit64(2).tolist()
                angle, radius = 2 * math.pi * turn, math.sqrt(-2 * math.log1p(-tail))
                values.append(radius * math.cos(angle))
                self._waiting_normal = radius * math.sin(angle)
            else:
                values.append(self._waiting_normal)
                self._waiting_normal = None
        return values


def _size(shape: Shape) -> tuple[int, ...]:
    size = tuple(map(index, shape)) if isinstance(shape, Sequence) else (index(shape),)
    if any(length < 0 for length in size):
        raise ValueError(f"a shape has lengths >= 0, got {shape}")
    return size


def _is_double(dtype: DTypeLike) -> bool:
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
    return np.dtype(dtype) == np.float64

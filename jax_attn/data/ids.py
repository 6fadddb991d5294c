"""Token ids as they are given: integers of any kind, inside a vocabulary or not."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

import numpy as np
from numpy.typing import NDArray

from jax_attn.domains import LARGEST_INT32
from jax_attn.errors import InputError


def checked_ids(ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
    """[N]. InputError for what is no integer."""
    given = np.asarray(ids)
    if given.size and given.dtype.kind not in "iuO":
        raise InputError(f"ids are integers; these are {given.dtype}")
    if given.dtype.kind == "O":  # larger than any that NumPy has: outside, all the same
        given = [LARGEST_INT32 if abs(index(i)) > LARGEST_INT32 else i for i in given.flat]
    return np.asarray(given, dtype=np.int64)


def require_inside(
    ids: NDArray[np.int64], vocab_size: int, errors: str = "strict"
) -> NDArray[np.bool_]:
    """[N] Which of them are in [0, vocab_size). InputError, if `errors` is strict, for others."""
    inside = (ids >= 0) & (ids < vocab_size)
    if errors == "strict" and not inside.all():
        raise InputError(f"ids outside [0, {vocab_size}): {np.unique(ids[~inside])[:10].tolist()}")
    return inside

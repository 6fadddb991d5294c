"""Tokens that are mapped from a file (np.memmap), looked at without filling the memory."""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jax_attn.errors import InputError

AT_ONCE = 32  # windows, each of which may bring up to 2 MB of a map into memory


def is_mapped(tokens: Any) -> bool:
    """Whether they are on the disk, there to be looked at in parts only."""
    return isinstance(tokens, np.memmap)


def release(tokens: Any) -> None:
    """Lets go of the memory for what was looked at in a map; it is read again when asked for."""
    pages = getattr(tokens, "_mmap", None)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


class Windows:
    """Tokens in a row from many places: of a map read from its file.

    Where that has no `preadv`, or the map is a part of another, they are looked at in the map: each
    is then a fault of a page, which takes some forty times as long.
    """

    def __init__(self, tokens: Any) -> None:
        """`tokens`: integers [N] that have `len` and indices."""
        self._tokens = tokens
        self._file: int | None = None
        whole = is_mapped(tokens) and isinstance(tokens.base, mmap.mmap)
        if whole and hasattr(os, "preadv"):
            self._file = os.open(tokens.filename, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)

    def at(self, starts: NDArray[np.integer], length: int) -> NDArray[np.integer]:
        """[N length] From each of N places on. InputError where the file has ended before."""
        found: Any = np.empty((len(starts), length), self._tokens.dtype)
        if self._file is not None:
            width, begin = found.dtype.itemsize, self._tokens.offset
            for row, start in zip(found, starts.tolist(), strict=True):
                if os.preadv(self._file, [row], begin + start * width) < row.nbytes:
                    raise InputError(
                        f"{self._tokens.filename} has been cut short; remove its folder, and it is "
                        "made again"
                    )
            return found
        for begin in range(0, len(starts), AT_ONCE):
            some = slice(begin, begin + AT_ONCE)
            found[some] = self._tokens[starts[some, None] + np.arange(length)]
            release(self._tokens)
        return found

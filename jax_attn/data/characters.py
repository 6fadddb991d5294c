"""The characters of a text that is read once, wherever they have room."""

from __future__ import annotations

import shutil
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jax_attn.errors import InputError

BYTE = 256
SPARE = 1 << 30  # bytes that a disk is left with
LOOK_EVERY = 1 << 26  # bytes written, at its room


class _Piece(NamedTuple):
    """Consecutive characters' ids."""

    begin: int  # the place of the first of them
    length: int
    dtype: np.dtype
    where: Any  # the ids themselves, or their offset in the file


class Characters:
    """A text as ids of its characters, which are numbered as they are met.

    Each piece is in the narrowest unsigned type of its time: one or two bytes a character, in
    memory. When these are more than MOST_IN_MEMORY the text is large, and all of it moves to a file
    without a name, which ends with the process.
    """

    MOST_IN_MEMORY: ClassVar[int] = 1 << 26  # bytes

    def __init__(self, folder: Callable[[], Path]) -> None:
        """`folder` makes the one that the file is in; OSError where it cannot."""
        self._folder = folder
        self._ids = np.full(sys.maxunicode + 1, -1, np.int32)  # by code point
        self._points = np.empty(0, np.uint32)  # by id
        self._pieces: list[_Piece] = []
        self._begins: list[int] = []
        self._length = self._n_bytes = 0
        self._file: Any = None

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        """Nothing is asked of it after that."""
        if self._file is not None:
            self._file.close()

    @property
    def large(self) -> bool:
        return self._file is not None

    @property
    def symbols(self) -> str:
        """The characters of id 0, 1, 2, …"""
        return text_of(self._points)

    def add(self, text: str) -> None:
        """At the end. InputError where the disk has no room for a large text."""
        if not text:
            return
        ids = self._numbered(text)
        self._begins.append(self._length)
        self._n_bytes += ids.nbytes
        where = ids if self._file is None else self._written(ids)
        self._pieces.append(_Piece(self._length, len(ids), ids.dtype, where))
        self._length += len(ids)
        if self._file is None and self._n_bytes > self.MOST_IN_MEMORY:
            self._file = tempfile.TemporaryFile(dir=self._folder())  # noqa: SIM115
            self._pieces = [p._replace(where=self._written(p.where)) for p in self._pieces]

    def ids(self, begin: int, end: int) -> Iterator[NDArray[np.unsignedinteger]]:
        """Those of the characters from `begin` to before `end`, in pieces."""
        first = max(0, bisect_right(self._begins, begin) - 1)
        for piece in self._pieces[first:]:
            if piece.begin >= end:
                return
            low, high = max(begin - piece.begin, 0), min(end - piece.begin, piece.length)
            if self._file is None:
                yield piece.where[low:high]
            else:
                self._file.seek(piece.where + low * piece.dtype.itemsize)
                yield np.fromfile(self._file, piece.dtype, high - low)

    def texts(self, begin: int, end: int) -> Iterator[str]:
        """The same characters as texts."""
        low = bool((self._points < BYTE).all())  # then each is a byte, and so is its id
        points = self._points.astype(np.uint8 if low else np.uint32)
        for ids in self.ids(begin, end):
            found = looked_up(points, ids)
            yield found.tobytes().decode("latin-1") if low else text_of(found)

    def count(self, symbol: str, begin: int, end: int) -> int:
        """How often one occurs there."""
        own = self._ids[ord(symbol)]
        if own < 0:
            return 0
        return sum(int(np.count_nonzero(ids == own)) for ids in self.ids(begin, end))

    def _numbered(self, text: str) -> NDArray[np.unsignedinteger]:
        if len(self._points) <= BYTE:
            try:
                ids = self._numbered_bytes(text.encode("latin-1"))
            except UnicodeEncodeError:
                ids = None
            if ids is not None:
                return ids
        points = code_points(text)
        ids = self._ids[points]
        if len(new := np.unique(points[ids < 0])):
            self._know(new)
            ids = self._ids[points]
        return ids.astype(np.min_scalar_type(len(self._points) - 1))

    def _numbered_bytes(self, text: bytes) -> NDArray[np.uint8] | None:
        """The same where characters are bytes, and so are their ids, at several times the speed.

        None where their ids are none.
        """
        low = self._points[self._points < BYTE].astype(np.uint8).tobytes()
        if new := text.translate(None, low):
            self._know(np.array(sorted(set(new)), np.uint32))
            if len(self._points) > BYTE:
                return None
        table = np.maximum(self._ids[:BYTE], 0).astype(np.uint8)
        return np.frombuffer(text.translate(table.tobytes()), np.uint8)

    def _know(self, points: NDArray[np.uint32]) -> None:
        """Numbers characters that are new."""
        begin = len(self._points)
        self._points = np.concatenate([self._points, points])
        self._ids[points] = np.arange(begin, len(self._points))

    def _written(self, ids: NDArray[np.unsignedinteger]) -> int:
        """Writes some at the file's end; where they begin."""
        offset = self._file.seek(0, 2)
        if offset % LOOK_EVERY + ids.nbytes >= LOOK_EVERY:
            free = shutil.disk_usage(folder := self._folder()).free
            if free < self._n_bytes + SPARE:  # the tokens will take as much again
                raise InputError(
                    f"{folder} has no room for the tokens of {self._n_bytes / 1e9:.1f} GB and more "
                    f"({free / 1e9:.1f} GB are free); name a folder with more in JAX_ATTN_CACHE"
                )
        self._file.write(ids)
        return offset


def looked_up(table: NDArray[np.integer], ids: NDArray[np.unsignedinteger]) -> NDArray[np.integer]:
    """`table[ids]`; where all are bytes, at several times the speed."""
    if table.dtype == ids.dtype == np.uint8:
        padded = table.tobytes().ljust(BYTE, b"\0")
        return np.frombuffer(ids.tobytes().translate(padded), np.uint8)
    return table[ids]


def code_points(text: str) -> NDArray[np.uint32]:
    """[len(text)]"""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")


def text_of(points: NDArray[np.integer]) -> str:
    """The text of code points."""
    return points.astype("<u4").tobytes().decode("utf-32-le", errors="surrogatepass")

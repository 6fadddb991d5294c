"""The lecture's tokenizer: a character is a token."""

from __future__ import annotations

import os
from collections.abc import Sequence
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jax_attn.data.text_file import code_points, text_of
from jax_attn.domains import LARGEST_INT32
from jax_attn.errors import InputError
from jax_attn.json_files import read_json, write_json

SHOWN_SYMBOLS = 100  # of a vocabulary in a message


class CharTokenizer:
    """One id a character, in the order of code points, as the lecture does it."""

    def __init__(self, characters: str) -> None:
        """`characters`: the symbols of id 0, 1, 2, …; each once, sorted, else InputError."""
        if not characters or list(characters) != sorted(set(characters)):
            raise InputError("a tokenizer needs its characters sorted, each once, at least one")
        self.characters = characters
        self._code_points = code_points(characters)

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """The tokenizer of all characters that occur in `text`."""
        if not text:
            raise InputError("the text is empty: there are no characters to make a vocabulary of")
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    @property
    def dtype(self) -> np.dtype:
        """The narrowest unsigned integer that holds every id."""
        return np.min_scalar_type(self.vocab_size - 1)

    def encode(self, text: str) -> NDArray[np.integer]:
        """Ids [len(text)], in the narrowest unsigned type; InputError names unknown characters."""
        points = code_points(text)
        ids = np.searchsorted(self._code_points, points)
        ids = np.minimum(ids, self.vocab_size - 1)
        unknown = self._code_points[ids] != points
        if unknown.any():
            found = np.unique(points[unknown])
            names = ", ".join(repr(chr(p)) for p in found[:10])
            more = f" and {len(found) - 10:,} more" if len(found) > 10 else ""
            known = repr(self.characters[:SHOWN_SYMBOLS])
            if self.vocab_size > SHOWN_SYMBOLS:
                known += f" and {self.vocab_size - SHOWN_SYMBOLS:,} more"
            raise InputError(
                f"characters outside the vocabulary: {names}{more}; the model knows only {known}"
            )
        return ids.astype(self.dtype)

    def decode(self, ids: Sequence[int] | NDArray[np.integer], errors: str = "strict") -> str:
        """The text of some ids. An id outside the vocabulary: InputError, or "�" for "replace"."""
        given = np.asarray(ids)
        if given.size and given.dtype.kind not in "iuO":
            raise InputError(f"ids are integers; these are {given.dtype}")
        if given.dtype.kind == "O":  # larger than any that NumPy has: outside, all the same
            given = [LARGEST_INT32 if abs(index(i)) > LARGEST_INT32 else i for i in given.flat]
        ids = np.asarray(given, dtype=np.int64)
        inside = (ids >= 0) & (ids < self.vocab_size)
        if errors == "strict" and not inside.all():
            raise InputError(
                f"ids outside [0, {self.vocab_size}): {np.unique(ids[~inside])[:10].tolist()}"
            )
        points = self._code_points[np.clip(ids, 0, self.vocab_size - 1)]
        return text_of(np.where(inside, points, ord("\ufffd")))

    def about_unknown(self, ids: NDArray[np.integer]) -> str | None:
        """A line for whoever wonders at "�" in a sample; None where there is none to wonder at."""
        n = int(np.count_nonzero(ids >= self.vocab_size))
        if not n:
            return None
        return (
            f"{n:,} of its {len(ids):,} ids stand for no character of the text and show as "
            f"\ufffd: the model knows more ids than the text has symbols ({self.vocab_size:,})"
        )

    def record(self) -> dict[str, Any]:
        """All of it as plain JSON types, exactly undone by `of`."""
        return {"kind": "characters", "characters": self.characters}

    @classmethod
    def of(cls, record: Any) -> CharTokenizer:
        """What a `record()` is of. InputError for anything else."""
        characters = record.get("characters") if isinstance(record, dict) else None
        if not isinstance(characters, str):
            raise InputError("characters is no text")
        return cls(characters)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON that `load` reads."""
        write_json(Path(path), self.record())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CharTokenizer:
        """Raises InputError when the file is missing or is no tokenizer of characters."""
        try:
            return cls.of(read_json(Path(path)))
        except FileNotFoundError as error:
            raise InputError(f"{path}: there is no such tokenizer file") from error
        except ValueError as error:
            raise InputError(f"{path}: not a tokenizer file ({error})") from error

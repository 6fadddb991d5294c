"""The lecture's tokenizer: a character is a token."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jax_attn.data.characters import code_points, text_of
from jax_attn.data.ids import checked_ids, require_inside
from jax_attn.data.tokenizer import Tokenizer, UnknownCharacters
from jax_attn.errors import InputError
from jax_attn.json_files import read_json

SHOWN_SYMBOLS = 100  # of a vocabulary in a message


class CharTokenizer(Tokenizer):
    """One id a character. `from_text` has them in the order of code points, as the lecture does."""

    unit = "character"
    end_of_text = None
    start = 0  # a newline in most texts

    def __init__(self, characters: str) -> None:
        """`characters`: the symbols of id 0, 1, 2, …; each once, at least one, else InputError."""
        if not characters or len(set(characters)) < len(characters):
            raise InputError("a tokenizer needs its characters each once, at least one")
        self.characters = characters
        self._code_points = code_points(characters)  # by id
        self._order = np.argsort(self._code_points)  # ids, in the order of code points
        self._sorted = self._code_points[self._order]

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """The tokenizer of all characters that occur in `text`."""
        if not text:
            raise InputError("the text is empty: there are no characters to make a vocabulary of")
        return cls("".join(sorted(set(text))))

    def extended(self, text: str) -> CharTokenizer:
        """One that knows the characters of `text`, too: those it knew keep their ids."""
        return CharTokenizer(self.characters + self.unknown(text))

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    def unknown(self, text: str) -> str:
        return "".join(sorted(set(text).difference(self.characters)))

    def encode(self, text: str) -> NDArray[np.integer]:
        """Ids [len(text)], in the narrowest unsigned type; UnknownCharacters for others."""
        points = code_points(text)
        places = np.minimum(np.searchsorted(self._sorted, points), self.vocab_size - 1)
        unknown = self._sorted[places] != points
        if unknown.any():
            known = repr(self.characters[:SHOWN_SYMBOLS])
            if self.vocab_size > SHOWN_SYMBOLS:
                known += f" and {self.vocab_size - SHOWN_SYMBOLS:,} more"
            raise UnknownCharacters(
                text_of(np.unique(points[unknown])), f"; the model knows only {known}"
            )
        return self._order[places].astype(self.dtype)

    def decode(self, ids: Sequence[int] | NDArray[np.integer], errors: str = "strict") -> str:
        """The text of some ids. An id outside the vocabulary: InputError, or "�" for "replace"."""
        ids = checked_ids(ids)
        inside = require_inside(ids, self.vocab_size, errors)
        points = self._code_points[np.clip(ids, 0, self.vocab_size - 1)]
        return text_of(np.where(inside, points, ord("\ufffd")))

    def count_characters(self, ids: NDArray[np.integer]) -> int:
        return len(ids)

    def about_unknown(self, ids: NDArray[np.integer]) -> str | None:
        """A line for whoever wonders at "�" in a sample; None where there is none to wonder at."""
        n = int(np.count_nonzero(ids >= self.vocab_size))
        if not n:
            return None
        return (
            f"{n:,} of its {len(ids):,} ids stand for no character of the text and show as "
            f"\ufffd: the model knows more ids than the text has symbols ({self.vocab_size:,})"
        )

    def describe(self) -> str:
        more = "…" if self.vocab_size > 20 else ""
        return f"{self.vocab_size:,} symbols {self.characters[:20]!r}{more}"

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

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CharTokenizer:
        """Raises InputError when the file is missing or is no tokenizer of characters."""
        try:
            return cls.of(read_json(Path(path)))
        except FileNotFoundError as error:
            raise InputError(f"{path}: there is no such tokenizer file") from error
        except ValueError as error:
            raise InputError(f"{path}: not a tokenizer file ({error})") from error

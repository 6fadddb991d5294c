"""What every tokenizer offers: from a text to token ids, and back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from jax_attn.errors import InputError
from jax_attn.json_files import write_json

# What a language calls it in a message; of a number of tokens, too.
UNITS = {"character": "characters", "byte": "bytes", "token": "tokens"}


MOST_SHOWN = 10  # unknown characters in a message


class UnknownCharacters(InputError):
    """A text has characters that no id stands for."""

    def __init__(self, characters: str, known: str = "") -> None:
        """`characters`, each once; `known` is what the message goes on with."""
        names = ", ".join(map(repr, characters[:MOST_SHOWN]))
        more = len(characters) - MOST_SHOWN
        several = f" and {more:,} more" if more > 0 else ""
        super().__init__(f"characters outside the vocabulary: {names}{several}{known}")
        self.characters = characters


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back. Kinds that inherit from it have what is written out here."""

    unit: str  # what a token is, in the singular: a key of UNITS
    end_of_text: int | None  # the id between two documents; None where the kind has none
    start: int  # the id that a sample without a prompt begins with: a newline where there is one

    @property
    def vocab_size(self) -> int:
        """Ids are in [0, vocab_size); not each has to stand for something."""
        ...

    @property
    def known(self) -> NDArray[np.bool_]:
        """[vocab_size] Which ids stand for something. Those from vocab_size on, which a model may
        have beside them, never do."""
        return np.ones(self.vocab_size, np.bool_)

    @property
    def dtype(self) -> np.dtype:
        """The narrowest unsigned integer that holds every id."""
        return np.min_scalar_type(self.vocab_size - 1)

    def unknown(self, text: str) -> str:
        """The characters of `text` that `encode` refuses, each once, sorted."""
        ...

    def encode(self, text: str) -> NDArray[np.integer]:
        """Ids [N] in `dtype`. UnknownCharacters names the `unknown` ones."""
        ...

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[NDArray[np.integer]]:
        """The ids of the joined text, exactly those of `encode`, wherever it was cut."""
        for piece in pieces:
            yield self.encode(piece)

    def decode(self, ids: Sequence[int] | NDArray[np.integer], errors: str = "strict") -> str:
        """The text of some ids. One that stands for none: InputError, or "�" for "replace"."""
        ...

    def decode_pieces(self, pieces: Iterable[NDArray[np.integer]]) -> Iterator[str]:
        """The text of the joined ids, as `decode(…, "replace")` has it, as soon as it is certain.

        A text, maybe empty, for each piece, and one more at the end. A character whose bytes are
        in several tokens comes whole, with the last of them.
        """
        for piece in pieces:
            yield self.decode(piece, "replace")
        yield ""

    def symbol(self, id: int) -> str:
        """What one id stands for, to be shown: for a part of a character its bytes, \\xe4."""
        return self.decode([id], "replace")

    def count_characters(self, ids: NDArray[np.integer]) -> int:
        """How many characters the text of some ids has: each counts with its first byte.

        A loss a character is that a token times their number over this. End-of-text has none.
        """
        ...

    def about_unknown(self, ids: NDArray[np.integer]) -> str | None:
        """A line for whoever wonders at "�" in a sample; None where there is none to wonder at."""
        ...

    def describe(self) -> str:
        """Which one it is, in a few words: 65 symbols '\\n !$&…'."""
        ...

    def record(self) -> dict[str, Any]:
        """All of it as plain JSON types, exactly undone by `tokenizer_of`."""
        ...

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `record()` as JSON that `load_tokenizer` reads. OSError as usual."""
        write_json(Path(path), self.record())

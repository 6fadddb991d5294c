"""What every tokenizer offers, and the JSON that it travels as."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from jax_attn.data.char_tokenizer import CharTokenizer
from jax_attn.errors import InputError
from jax_attn.json_files import read_json


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def dtype(self) -> np.dtype:
        """The narrowest unsigned integer that holds every id."""
        ...

    def encode(self, text: str) -> NDArray[np.integer]:
        """Ids [N]. InputError names characters that no id stands for."""
        ...

    def decode(self, ids: Sequence[int] | NDArray[np.integer], errors: str = "strict") -> str:
        """The text of some ids. One that stands for none: InputError, or "�" for "replace"."""
        ...

    def about_unknown(self, ids: NDArray[np.integer]) -> str | None:
        """A line for whoever wonders at "�" in a sample; None where there is none to wonder at."""
        ...

    def record(self) -> dict[str, Any]:
        """All of it as plain JSON types, exactly undone by `tokenizer_of`."""
        ...

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `record()` as JSON that `load_tokenizer` reads."""
        ...


def tokenizer_of(record: Any) -> Tokenizer:
    """What a `record()` is of. InputError for anything else."""
    return CharTokenizer.of(record)


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """From a `tokenizer.json` of a run. InputError when it is missing or is none."""
    try:
        return tokenizer_of(read_json(Path(path)))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such tokenizer file") from error
    except ValueError as error:
        raise InputError(f"{path}: not a tokenizer file ({error})") from error

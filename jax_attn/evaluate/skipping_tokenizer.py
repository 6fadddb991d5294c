"""A tokenizer for texts with characters that it does not know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jax_attn.data import Tokenizer


class SkippingTokenizer(Tokenizer):
    """Another's tokens, of a text as though its unknown characters were not in it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.unit, self.end_of_text = tokenizer.unit, tokenizer.end_of_text
        self.start = tokenizer.start
        self.skipped: dict[str, int] = {}  # how often each character was, so far

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.vocab_size

    @property
    def known(self) -> NDArray[np.bool_]:
        return self._tokenizer.known

    def unknown(self, text: str) -> str:
        return ""

    def encode(self, text: str) -> NDArray[np.integer]:
        return self._tokenizer.encode(self._without_unknown(text))

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[NDArray[np.integer]]:
        return self._tokenizer.encode_pieces(map(self._without_unknown, pieces))

    def decode(self, ids: Sequence[int] | NDArray[np.integer], errors: str = "strict") -> str:
        return self._tokenizer.decode(ids, errors)

    def decode_pieces(self, pieces: Iterable[NDArray[np.integer]]) -> Iterator[str]:
        return self._tokenizer.decode_pieces(pieces)

    def count_characters(self, ids: NDArray[np.integer]) -> int:
        return self._tokenizer.count_characters(ids)

    def about_unknown(self, ids: NDArray[np.integer]) -> str | None:
        return self._tokenizer.about_unknown(ids)

    def describe(self) -> str:
        return self._tokenizer.describe()

    def record(self) -> dict[str, Any]:
        """Not the other's: tokens of a text are kept by it."""
        return {"kind": "skipping", "tokenizer": self._tokenizer.record()}

    def _without_unknown(self, text: str) -> str:
        unknown = self._tokenizer.unknown(text)
        for character in unknown:
            self.skipped[character] = self.skipped.get(character, 0) + text.count(character)
        return text.translate(dict.fromkeys(map(ord, unknown)))

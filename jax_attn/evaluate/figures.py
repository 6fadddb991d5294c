"""One loss in the units that people compare models by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from jax_attn.data import Tokenizer

BLOCK = 1 << 20  # tokens that are looked at at once


@dataclass(frozen=True)
class Figures:
    """A mean loss a token, and what was predicted."""

    nats_per_token: float
    tokens: int  # whose mean it is
    characters: int  # that they stand for; an end-of-text has none
    bytes: int  # of those characters in UTF-8

    @classmethod
    def of(cls, loss: float, tokenizer: Tokenizer, tokens: Integer[np.ndarray, " N"]) -> Figures:
        """`loss` is the mean over all `tokens` but the first."""
        predicted = len(tokens) - 1
        characters = tokenizer.count_characters(tokens[1:])
        if tokenizer.unit == "byte":
            return cls(loss, predicted, characters, predicted)
        n_bytes = sum(len(text.encode("utf-8")) for text in _texts(tokenizer, tokens))
        first = sum(len(text.encode("utf-8")) for text in _texts(tokenizer, tokens[:1]))
        return cls(loss, predicted, characters, n_bytes - first)

    @property
    def perplexity(self) -> float:
        """How many tokens are as unlikely as this, chosen among alike: e to the loss a token."""
        try:
            return math.exp(self.nats_per_token)
        except OverflowError:
            return math.inf

    @property
    def nats_per_character(self) -> float | None:
        """None where there is none."""
        total = self.nats_per_token * self.tokens
        return total / self.characters if self.characters else None

    @property
    def bits_per_byte(self) -> float | None:
        """None where there is none."""
        total = self.nats_per_token * self.tokens
        return total / math.log(2) / self.bytes if self.bytes else None


def _texts(tokenizer: Tokenizer, tokens: Integer[np.ndarray, " N"]) -> Iterator[str]:
    """Their text without end-of-texts, a part at a time."""
    blocks = (tokens[i : i + BLOCK] for i in range(0, len(tokens), BLOCK))
    end = tokenizer.end_of_text
    return tokenizer.decode_pieces(b if end is None else b[b != end] for b in blocks)

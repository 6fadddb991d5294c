"""Losses a character, by which runs of different tokens compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from jax_attn.data import Tokenizer
from jax_attn.data.mapped import release

AT_ONCE = 1 << 20  # tokens that are counted


@dataclass(frozen=True)
class PerCharacter:
    """How many characters some tokens stand for; None where a token is one, or none are known."""

    tokens_per_character: float | None

    @classmethod
    def of(cls, tokenizer: Tokenizer, predicted: Integer[np.ndarray, " N"]) -> PerCharacter:
        """Of the tokens whose loss is taken, exactly these."""
        if tokenizer.unit == "character":
            return cls(None)
        characters = 0
        for begin in range(0, len(predicted), AT_ONCE):
            characters += tokenizer.count_characters(predicted[begin : begin + AT_ONCE])
            release(predicted)
        return cls(len(predicted) / characters if characters else None)

    @classmethod
    def of_all(cls, tokenizer: Tokenizer, tokens: int, characters: int) -> PerCharacter:
        """Of a split of so many tokens and characters."""
        return cls(tokens / characters if tokenizer.unit != "character" and characters else None)

    def loss(self, of_a_token: float) -> float | None:
        """Nats a character, of nats a token."""
        return None if (n := self.tokens_per_character) is None else of_a_token * n

    def words(self, of_a_token: float) -> str:
        """ ", 1.2345 per character", or nothing."""
        loss = self.loss(of_a_token)
        return "" if loss is None else f", {loss:.4f} per character"

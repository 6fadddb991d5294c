"""The text of a sample as its tokens come, up to where it ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from jax_attn.data import Tokenizer


def without_prompt(
    tokenizer: Tokenizer, start: NDArray[np.integer], stops: Sequence[str]
) -> Continuation:
    """Of a sample that begins with `start`: shown, unless it is the end of a text before."""
    shown = start[:0] if tokenizer.start == tokenizer.end_of_text else start
    return Continuation(tokenizer, shown, stops)


class Continuation:
    """Takes new tokens, and gives the text that they make certain.

    It ends before the first stop text that is complete, and before end-of-text, where the tokenizer
    has one. Neither is in it, nor anything after it, and no part of a stop text is given that may
    yet become whole. Stop texts are looked for in what follows the prompt.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: NDArray[np.integer], stops: Sequence[str]):
        self.ended = False
        self.tokens: list[NDArray[np.integer]] = []  # that were taken
        self._end_of_text = tokenizer.end_of_text
        self._stops = stops
        self._coming: deque[NDArray[np.integer]] = deque()
        self._decoded = tokenizer.decode_pieces(self._pieces())
        self._held = ""
        # Decoded with the prompt before them, on which their first space may depend.
        self.prompt = self._text_of(prompt)

    def add(self, tokens: NDArray[np.integer]) -> str:
        """The text that is certain now. `ended` is then whether there will be no more."""
        if self._end_of_text is not None:
            ends = np.flatnonzero(tokens == self._end_of_text)
            if len(ends):
                self.tokens.append(tokens[: ends[0]])
                return self._up_to_a_stop(self._text_of(tokens[: ends[0]])) + self.rest()
        self.tokens.append(tokens)
        return self._up_to_a_stop(self._text_of(tokens))

    def rest(self) -> str:
        """What was held back, when no more tokens come."""
        if self.ended:
            return ""
        text = self._up_to_a_stop(next(self._decoded))
        if not self.ended:
            text += self._held
            self.ended = True
        return text

    def _pieces(self) -> Iterator[NDArray[np.integer]]:
        while self._coming:
            yield self._coming.popleft()

    def _text_of(self, tokens: NDArray[np.integer]) -> str:
        self._coming.append(tokens)
        return next(self._decoded)

    def _up_to_a_stop(self, text: str) -> str:
        text = self._held + text
        # The one that is complete first, so that it does not matter where the pieces end.
        found = [(start + len(s), start) for s in self._stops if (start := text.find(s)) >= 0]
        if found:
            self.ended = True
            return text[: min(found)[1]]
        begun = (n for s in self._stops for n in range(1, len(s)) if text.endswith(s[:n]))
        certain = len(text) - max(begun, default=0)
        self._held = text[certain:]
        return text[:certain]

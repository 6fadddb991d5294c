"""From the characters of a text to its tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from jax_attn.data.char_tokenizer import CharTokenizer
from jax_attn.data.characters import looked_up
from jax_attn.data.given_text import ReadText
from jax_attn.data.tokenizer import Tokenizer


def encoded(
    text: ReadText, part: tuple[int, int], tokenizer: Tokenizer
) -> Iterator[NDArray[np.integer]]:
    """The ids of a part of it, in pieces, and the end-of-text id, if there is one, at every joint.

    InputError names characters that no id stands for.
    """
    begin, end = part
    characters = text.characters
    if isinstance(tokenizer, CharTokenizer):
        ids = tokenizer.encode(characters.symbols)  # by a character's own id
        for some in characters.ids(begin, end):
            yield looked_up(ids, some)
    elif tokenizer.end_of_text is None:
        yield from tokenizer.encode_pieces(characters.texts(begin, end))
    else:
        joint = np.array([tokenizer.end_of_text], tokenizer.dtype)
        for n, between in enumerate(text.between_joints(begin, end)):
            if n > 0:
                yield joint
            yield from tokenizer.encode_pieces(characters.texts(*between))


def n_characters(text: ReadText, part: tuple[int, int], tokenizer: Tokenizer) -> int:
    """Those that tokens stand for: an end-of-text is none."""
    begin, end = part
    if tokenizer.end_of_text is None:
        return end - begin
    return sum(end - begin for begin, end in text.between_joints(begin, end))

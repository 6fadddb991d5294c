"""From ids of subwords to their text, as they come."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

BEFORE = 16  # tokens that the text of the next ones may depend on, as its spaces do
LOST = "\ufffd"

# GPT-2 writes a byte as a letter: a visible one of Latin-1 as itself, the others from U+0100 on.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(0x100) if byte not in _VISIBLE]
BYTE_OF = {chr(byte): byte for byte in _VISIBLE} | {
    chr(0x100 + place): byte for place, byte in enumerate(_OTHERS)
}


def byte_table(names: dict[int, str], as_written: set[str]) -> dict[int, bytes]:
    """The UTF-8 of every id. Tokens `as_written`, the added ones, are not in GPT-2's letters."""

    def of(token: str) -> bytes:
        if token in as_written or not BYTE_OF.keys() >= set(token):
            return token.encode("utf-8")
        return bytes(map(BYTE_OF.__getitem__, token))

    return {id: of(token) for id, token in names.items()}


def decoded_bytes(pieces: Iterable[list[int]], table: dict[int, bytes]) -> Iterator[str]:
    """A text for each piece, and the rest; -1 and broken characters show as "�"."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for ids in pieces:
        yield decoder.decode(b"".join(table.get(id, b"\xff") for id in ids))
    yield decoder.decode(b"", final=True)


def decoded_by_library(pieces: Iterable[list[int]], made: Any) -> Iterator[str]:
    """The same by the library's decoder, which looks at neighbours.

    What a piece adds is what the text of the last tokens gains by it; while that ends in a broken
    character, more is waited for.
    """

    def text_of(ids: list[int]) -> str:
        return "".join(
            made.decode(list(run), skip_special_tokens=False) if known else LOST * len(list(run))
            for known, run in groupby(ids, lambda id: id >= 0)
        )

    before: list[int] = []
    held: list[int] = []
    for ids in pieces:
        held += ids
        text = text_of(before + held)
        if text.endswith(LOST) and held[-1:] != [-1]:
            yield ""
            continue
        yield text[len(text_of(before)) :]
        before, held = (before + held)[-BEFORE:], []
    yield text_of(before + held)[len(text_of(before)) :]

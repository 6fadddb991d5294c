"""A byte of a text's UTF-8 is a token."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jax_attn.data.ids import checked_ids, require_inside
from jax_attn.data.tokenizer import Tokenizer, UnknownCharacters

N_BYTES = 256
# Of a character's bytes in UTF-8 all but the first look like 10xxxxxx.
BEGINS_A_CHARACTER = np.arange(N_BYTES) & 0xC0 != 0x80


class ByteTokenizer(Tokenizer):
    """256 ids, the bytes of UTF-8: no text is unknown, whatever its script."""

    unit = "byte"
    end_of_text = None
    start = ord("\n")

    @property
    def vocab_size(self) -> int:
        return N_BYTES

    def unknown(self, text: str) -> str:
        return surrogates(text)

    def encode(self, text: str) -> NDArray[np.uint8]:
        """Ids [bytes of UTF-8]; UnknownCharacters for halves of a surrogate pair."""
        return np.frombuffer(utf8(text), np.uint8)

    def decode(self, ids: Sequence[int] | NDArray[np.integer], errors: str = "strict") -> str:
        """Bytes that are no UTF-8 show as "�": a model may say any."""
        return "".join(self._decoded([checked_ids(ids)], errors))

    def decode_pieces(self, pieces: Iterable[NDArray[np.integer]]) -> Iterator[str]:
        return self._decoded(map(checked_ids, pieces), "replace")

    def _decoded(self, pieces: Iterable[NDArray[np.int64]], errors: str) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for ids in pieces:
            inside = require_inside(ids, N_BYTES, errors)
            # 0xff is in no UTF-8: it shows as one "�", as what stands for nothing does.
            yield decoder.decode(np.where(inside, ids, 0xFF).astype(np.uint8).tobytes())
        yield decoder.decode(b"", final=True)

    def symbol(self, id: int) -> str:
        return f"\\x{id:02x}" if 0x80 <= id < N_BYTES else self.decode([id], "replace")

    def count_characters(self, ids: NDArray[np.integer]) -> int:
        return int(np.count_nonzero(BEGINS_A_CHARACTER[ids]))

    def about_unknown(self, ids: NDArray[np.integer]) -> str | None:
        n = int(np.count_nonzero(ids >= N_BYTES))
        if n:
            return f"{n:,} of its {len(ids):,} ids are no byte and show as \ufffd"
        if "\ufffd" in self.decode(ids):
            return "bytes that make no character show as \ufffd: a longer training has fewer"
        return None

    def describe(self) -> str:
        return "bytes"

    def record(self) -> dict[str, Any]:
        return {"kind": "bytes"}


def utf8(text: str) -> bytes:
    """UnknownCharacters for halves of a surrogate pair, which no UTF-8 has."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnknownCharacters(surrogates(text), "; no UTF-8 has halves of them") from error


def surrogates(text: str) -> str:
    """The halves of surrogate pairs in a text, each once, sorted."""
    return "".join(sorted(c for c in set(text) if "\ud800" <= c <= "\udfff"))

"""A file's text, read once and checked from its first byte to its last."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from jax_attn.data.characters import Characters
from jax_attn.data.file_bytes import file_bytes, shown
from jax_attn.data.odd_text import CONTROL, MARK, remarks
from jax_attn.errors import InputError
from jax_attn.text_encoding import SAMPLE, identified, what_else

MOST_CONTROL = 0.01  # share of control characters in what passes for a text


def read_text_file(
    path: Path,
    encoding: str,
    characters: Characters,
    warn: Callable[[str], None],
    read: Callable[[int], object] = lambda n_bytes: None,
) -> str:
    """Adds the file's text to `characters`; returns the SHA-256 of its bytes, those in a .gz.

    Byte order marks before the first character are none of the text's. `warn` gets a line for a
    pipe, before it is waited for, and for whatever is odd in the text; `read` the number of bytes
    of every piece. InputError for what cannot be read, is written to meanwhile, is not in
    `encoding`, is plainly no text, or is empty.
    """
    name = shown(path)
    digest, begin = hashlib.sha256(), len(characters)
    head, beginning = b"", ""

    def lines() -> int:
        return characters.count("\n", begin, len(characters))

    for piece, text in _decoded(file_bytes(path, warn), encoding, name, lines):
        digest.update(piece)
        read(len(piece))
        head = head or piece[:SAMPLE]
        if len(characters) == begin and (text := text.lstrip(MARK)):
            beginning = text
            _require_text(beginning, head, encoding, name)
        characters.add(text)
    if len(characters) == begin:
        raise InputError(f"{name}: the file is empty; give a text to train on")
    if any("\ud800" <= c <= "\udfff" for c in characters.symbols):
        raise InputError(f"{name}: not a text in {encoding} (it has halves of surrogate pairs)")
    for remark in remarks(characters, begin, beginning, encoding):
        warn(f"{name}: {remark}")
    return digest.hexdigest()


def _decoded(
    pieces: Iterator[bytes], encoding: str, name: str, lines: Callable[[], int]
) -> Iterator[tuple[bytes, str]]:
    """The pieces, and the characters completed by each. InputError says where it fails.

    `lines` counts the ends of lines in what has come of them so far.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    head, read = b"", 0
    piece: bytes | None = b""
    while piece is not None:
        piece = next(pieces, None)
        read += len(piece or b"")
        head = head or (piece or b"")[:SAMPLE]
        try:
            text = decoder.decode(piece or b"", final=piece is None)
        except UnicodeDecodeError as error:
            line = 1 + lines() + error.object[: error.start].decode(encoding, "ignore").count("\n")
            offset = read - len(error.object) + error.start
            begin = max(error.object.rfind(b"\n", 0, error.start), error.start - SAMPLE // 2, -1)
            where = (
                f"line {line:,}, byte offset {offset:,} ({error.object[error.start]:#04x}, "
                f"{error.reason})"
            )
            around = error.object[begin + 1 :][:SAMPLE]
            raise InputError(
                _no_text(name, encoding, where, what_else(head, around, encoding))
            ) from error
        except UnicodeError as error:  # UTF-16 without a mark, for example
            raise InputError(
                _no_text(name, encoding, str(error), what_else(head, head, encoding))
            ) from error
        yield piece or b"", text


def _no_text(name: str, encoding: str, where: str, what: str | None) -> str:
    known = "UTF-8" if codecs.lookup(encoding).name == "utf-8" else encoding
    return f"{name}: not a {known} text: {where}; {what or 'convert it, or give its --encoding'}"


def _require_text(text: str, head: bytes, encoding: str, name: str) -> None:
    """InputError for what decodes, and is plainly something else."""
    if text.startswith("\ufffe"):
        raise InputError(f"{name}: its bytes are in the other order: give --encoding utf-16")
    n_control = sum(map(text.count, CONTROL.intersection(text)))
    what = identified(head) if n_control > MOST_CONTROL * len(text) else None
    if what is not None:
        share = f"{n_control / len(text):.0%} of its characters are control characters"
        raise InputError(_no_text(name, encoding, share, what))

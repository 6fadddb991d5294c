"""The symbols and tokens of a text file, read once from its first byte to its last.

What comes through a pipe cannot be read twice, and what is written to meanwhile would be another
text the second time. The file is read in pieces and held as one or two bytes a character.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from jax_attn.errors import InputError
from jax_attn.text_encoding import (
    LATIN,
    OTHERS,
    SAMPLE,
    beyond_ascii,
    decodes_better,
    identified,
    misread,
    textual_kind,
    what_else,
)

PIECE = 1 << 20  # bytes of a file read at once
MOST_CHARACTERS = 2**31 - 1  # a place in a text is an int32 on the device
MARK = "\ufeff"  # the byte order mark, where it is a character
LOST = "\ufffd"  # what stands where something could not be decoded
CONTROL = frozenset(map(chr, (*range(32), *range(0x7F, 0xA0)))) - set("\t\n\v\f\r\x85")
MOST_CONTROL = 0.01  # share of them in what passes for a text


@dataclass(frozen=True)
class TextFile:
    """A text as ids of its symbols."""

    characters: str  # the symbols of id 0, 1, 2, … in the order of code points
    tokens: NDArray[np.integer]  # in the narrowest unsigned type
    sha256: str  # of the file's bytes, whatever they encode


def read_text_file(path: Path, encoding: str, warn: Callable[[str], None]) -> TextFile:
    """Byte order marks before the first character are none of the text's.

    `warn` gets a line for a pipe, before it is waited for, and for whatever is odd in the text.
    InputError for what cannot be read, is written to meanwhile, is not in `encoding`, is plainly no
    text, is empty, or longer than `MOST_CHARACTERS`.
    """
    name = shown(path)
    digest, symbols = hashlib.sha256(), _Symbols()
    pieces: list[NDArray] = []
    length, head, beginning = 0, b"", ""
    for piece, text in _decoded(_pieces(path, warn), encoding, name):
        digest.update(piece)
        head = head or piece[:SAMPLE]
        if not length and (text := text.lstrip(MARK)):
            beginning = text
            _require_text(beginning, head, encoding, name)
        if not text:
            continue
        pieces.append(symbols.ids(text))
        length += len(text)
        if length > MOST_CHARACTERS:
            raise InputError(
                f"{name}: longer than {MOST_CHARACTERS:,} characters, the most that a run can take"
            )
    if not length:
        raise InputError(f"{name}: the file is empty; give a text to train on")
    characters, ranks = symbols.sorted()
    if any("\ud800" <= c <= "\udfff" for c in characters):
        raise InputError(f"{name}: not a text in {encoding} (it has halves of surrogate pairs)")
    tokens = np.empty(length, ranks.dtype)
    filled = 0
    for i, ids in enumerate(pieces):
        tokens[filled : filled + len(ids)] = ranks[ids]
        filled += len(ids)
        pieces[i] = np.empty(0)
    for remark in _remarks(characters, tokens, beginning, encoding):
        warn(f"{name}: {remark}")
    return TextFile(characters, tokens, digest.hexdigest())


def can_be_read_again(path: Path) -> bool:
    """Whether it is a plain file, there to be opened."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def lasting_name(path: Path) -> str:
    """By which the file is found later; one of an open file (/dev/stdin) ends with the process."""
    fleeting = path.parts[:2] in ((os.sep, "dev"), (os.sep, "proc"))
    return str(path.resolve() if fleeting and can_be_read_again(path) else path.absolute())


def shown(path: Path) -> str:
    """A path for a message of one line."""
    name = str(path)
    return (name if name.isprintable() else repr(name))[:200]


class _Symbols:
    """Ids of characters in the order in which they are met."""

    def __init__(self) -> None:
        self._ids = np.full(sys.maxunicode + 1, -1, np.int32)  # by code point
        self._points = np.empty(0, np.uint32)  # by id

    def ids(self, text: str) -> NDArray[np.integer]:
        points = code_points(text)
        ids = self._ids[points]
        new = np.unique(points[ids < 0])
        if len(new):
            self._points = np.concatenate([self._points, new])
            self._ids[new] = np.arange(len(self._points) - len(new), len(self._points))
            ids = self._ids[points]
        return ids.astype(_narrowest(len(self._points)))

    def sorted(self) -> tuple[str, NDArray[np.integer]]:
        """All characters in the order of code points, and the place there of every id."""
        order = np.argsort(self._points)
        ranks = np.empty(len(order), _narrowest(len(order)))
        ranks[order] = np.arange(len(order))
        return text_of(self._points[order]), ranks


def code_points(text: str) -> NDArray[np.uint32]:
    """[len(text)]"""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")


def text_of(points: NDArray[np.integer]) -> str:
    """The text of code points."""
    return points.astype("<u4").tobytes().decode("utf-32-le", errors="surrogatepass")


def _narrowest(n_symbols: int) -> np.dtype:
    return np.min_scalar_type(n_symbols - 1)


def _pieces(path: Path, warn: Callable[[str], None]) -> Iterator[bytes]:
    """The file's bytes. InputError for what is none or changes meanwhile."""
    name = shown(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{name}: cannot be read (it is a folder); give one file")
        if stat.S_ISFIFO(mode):
            warn(
                f"{name} is a pipe: it is read once, to its end. To resume the run, the same text "
                "has to be given with --data PATH"
            )
        elif not stat.S_ISREG(mode):
            raise InputError(f"{name}: cannot be read (it is a device or a socket); give a file")
        with path.open("rb") as file:
            yield from _until_it_ends(file, name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{name}: there is no such file; --data takes tinyshakespeare, python-docs or a path"
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        if "\n" in str(path) or len(str(path)) > 1_000:
            raise InputError("data is to be the path of a text, not the text itself") from error
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{name}: cannot be read ({reason})") from error


def _until_it_ends(file: BinaryIO, name: str) -> Iterator[bytes]:
    """One that is written to for ever is not followed for ever."""
    before = os.fstat(file.fileno())
    n_bytes = 0
    while piece := file.read(PIECE):
        n_bytes += len(piece)
        if before.st_size and n_bytes > before.st_size:
            break
        yield piece
    after = os.fstat(file.fileno())
    plain = stat.S_ISREG(before.st_mode)
    if plain and (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{name}: was written to while it was read; wait until it is whole")


def _decoded(pieces: Iterator[bytes], encoding: str, name: str) -> Iterator[tuple[bytes, str]]:
    """The pieces, and the characters completed by each. InputError says where it fails."""
    decoder = codecs.getincrementaldecoder(encoding)()
    head, read, lines, text = b"", 0, 0, ""
    piece: bytes | None = b""
    while piece is not None:
        piece = next(pieces, None)
        read += len(piece or b"")
        head = head or (piece or b"")[:SAMPLE]
        lines += text.count("\n")
        try:
            text = decoder.decode(piece or b"", final=piece is None)
        except UnicodeDecodeError as error:
            line = 1 + lines + error.object[: error.start].decode(encoding, "ignore").count("\n")
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


def _remarks(
    characters: str, tokens: NDArray[np.integer], beginning: str, encoding: str
) -> Iterator[str]:
    """Lines on what is odd in a text, and no reason to refuse it."""

    def count(character: str) -> str:
        n = np.count_nonzero(tokens == characters.index(character))
        return "once" if n == 1 else f"{n:,} times"

    kind = textual_kind(beginning)
    if kind:
        yield f"it looks like {kind}, and is taken as it stands"
    control = sorted(CONTROL.intersection(characters))
    if control:
        several = f" and {len(control) - 3} others" if len(control) > 3 else ""
        which = ", ".join(f"{c!r} {count(c)}" for c in control[:3])
        yield f"it has control characters: {which}{several}"
    if MARK in characters:
        yield f"it has the byte order mark of a file inside, {MARK!r}, {count(MARK)}"
    if LOST in characters:
        yield f"it has the sign of a lost character, {LOST!r}, {count(LOST)}: how was it made?"
    meant, given = misread(beginning), codecs.lookup(encoding).name
    if given.startswith("utf"):
        if meant:
            yield f"it looks like {meant} that was read as cp1252 when the file was made"
        return
    if given in map(_canonical, ("latin-1", *LATIN, *OTHERS)):
        meant = decodes_better(beyond_ascii(beginning).encode(encoding, "ignore"), given)
    if meant:
        yield f"it looks more like {meant} than {encoding}: give --encoding {meant}"


def _canonical(encoding: str) -> str:
    return codecs.lookup(encoding).name

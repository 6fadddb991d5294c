"""The bytes of a file, read once from the first to the last; of a .gz, what is packed in it.

What comes through a pipe cannot be read twice, and what is written to meanwhile would be another
text the second time.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from jax_attn.errors import InputError
from jax_attn.nearest import nearest

PIECE = 1 << 20  # bytes read at once
PACKED = b"\x1f\x8b"  # what a gzip file begins with
# What a .gz may unpack to, and past that how many times its size. Texts come to 3 to 10 times, gzip
# itself to 1,000 at most.
UNPACKED_FREELY, MOST_TIMES = 1 << 26, 200


def file_bytes(path: Path, warn: Callable[[str], None]) -> Iterator[bytes]:
    """In pieces. `warn` gets a line for a pipe, before it is waited for.

    InputError for what cannot be read or changes meanwhile, and for a .gz that is none, is damaged,
    or is made to fill a disk.
    """
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
            if is_packed(path):
                yield from _unpacked(file, name)
            else:
                yield from _until_it_ends(file, file, name)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "a link to nothing" if path.is_symlink() else "there is no such file"
        raise InputError(
            f"{name}: {what}; give a text's path (--data takes tinyshakespeare, python-docs, too)"
            f"{perhaps(path)}"
        ) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def is_packed(path: Path) -> bool:
    """Whether its name says so."""
    return path.suffix.lower() == ".gz"


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


def perhaps(path: Path) -> str:
    """ "; perhaps OTHER is meant", after a message that there is nothing at a path; or nothing."""
    found = nearest(path)
    return "" if found is None else f"; perhaps {shown(found)} is meant"


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    if "\n" in str(path) or len(str(path)) > 1_000:
        return InputError("data is to be the path of a text, not the text itself")
    reason = error.strerror if isinstance(error, OSError) else error
    return InputError(f"{shown(path)}: cannot be read ({reason})")


def _unpacked(file: BufferedReader, name: str) -> Iterator[bytes]:
    begins = file.peek(len(PACKED))[: len(PACKED)]
    if begins and begins != PACKED:
        raise InputError(f"{name}: is no gzip file, whatever its name says; give it another name")
    size = os.fstat(file.fileno()).st_size
    n_bytes = 0
    try:
        with gzip.GzipFile(fileobj=file) as content:
            for piece in _until_it_ends(file, content, name):
                n_bytes += len(piece)
                if n_bytes > UNPACKED_FREELY and 0 < MOST_TIMES * size < n_bytes:
                    raise InputError(
                        f"{name}: unpacks to more than {MOST_TIMES} times its {size:,} bytes, as "
                        "no text does; unpack it yourself if it is one"
                    )
                yield piece
    except EOFError as error:
        raise InputError(f"{name}: its end is cut off; fetch or pack it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{name}: is damaged ({error}); fetch or pack it again") from error


def _until_it_ends(file: BinaryIO, content: Any, name: str) -> Iterator[bytes]:
    """`content` is the file or what it unpacks to; one that grows for ever is left."""
    before = os.fstat(file.fileno())
    plain = stat.S_ISREG(before.st_mode)
    while piece := content.read(PIECE):
        if plain and before.st_size and file.tell() > before.st_size:
            break
        yield piece
    after = os.fstat(file.fileno())
    if plain and (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{name}: was written to while it was read; wait until it is whole")

"""Tokens of large texts: written once into the cache folder, and mapped from there.

A text's tokens are a folder: `train.bin` and `validation.bin`, plain unsigned integers of the
narrowest type, and `about.json`, which says what they are. It gets its name when all is in it and
on the disk. To see what there is, or to clear it, list or remove `tokens/` in the cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jax_attn.data.cache import cache_dir
from jax_attn.data.tokenizer import Tokenizer
from jax_attn.errors import InputError
from jax_attn.json_files import read_json, sync, sync_folder, write_json

FORMAT = 1
PARTS = ("train", "validation")
TYPES = ("uint8", "uint16", "uint32")
LINE_EVERY_S = 10.0


class TokenFiles:
    """Those of one text, made by whatever tokenizers."""

    def __init__(self, *text: str | float | None) -> None:
        """`text`: all that the characters of both parts depend on."""
        self._name = _digest([FORMAT, *text])

    def find(self, tokens: str, tokenizer: Tokenizer | None) -> dict[str, Any] | None:
        """What is known of those of a tokenizer or, if it is None, of that of a setting."""
        which = "*" if tokenizer is None else _digest(tokenizer.record())
        for folder in sorted(tokens_folder().glob(f"{self._name}-{which}")):
            about = _about(folder)
            if about is not None and (tokenizer is not None or about["setting"] == tokens):
                return about
        return None

    def make(
        self,
        tokens: str,
        tokenizer: Tokenizer,
        parts: Iterable[Iterable[NDArray[np.integer]]],
        about: dict[str, Any],
    ) -> dict[str, Any]:
        """Writes those to train on and those to validate with, each given in pieces.

        `about` is kept with them. Inside `locked` only. OSError where they cannot be written.
        """
        final = tokens_folder() / f"{self._name}-{_digest(tokenizer.record())}"
        partial = final.with_name(f"{final.name}.writing")
        partial.mkdir()
        try:
            lengths = [
                _write(partial / f"{name}.bin", pieces, tokenizer.dtype)
                for name, pieces in zip(PARTS, parts, strict=True)
            ]
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        about = about | {
            "setting": tokens,
            "tokenizer": tokenizer.record(),
            "type": tokenizer.dtype.name,
            "tokens": lengths,
        }
        write_json(partial / "about.json", about | {"checksum": _digest(about)})
        shutil.rmtree(final, ignore_errors=True)  # damaged, or it would have been found
        partial.rename(final)
        sync_folder(final.parent)
        return about | {"folder": final}

    @contextlib.contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[None]:
        """Nobody else makes any of this text meanwhile; what killed processes left is removed."""
        from filelock import FileLock, Timeout

        lock = FileLock(tokens_folder() / f"{self._name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("another process is making the tokens of this text: they are waited for")
            lock.acquire()
        try:
            for remnant in tokens_folder().glob("*.writing"):
                text = remnant.name.partition("-")[0]
                other = FileLock(remnant.with_name(f"{text}.lock"), timeout=0)
                own = contextlib.nullcontext() if text == self._name else other
                with contextlib.suppress(Timeout), own:
                    shutil.rmtree(remnant, ignore_errors=True)
            yield
        finally:
            lock.release()


def open_tokens(about: dict[str, Any]) -> tuple[NDArray[np.unsignedinteger], ...]:
    """The tokens to train on and those to validate with, of what was found or made."""
    return tuple(
        np.memmap(about["folder"] / f"{name}.bin", about["type"], mode="r", shape=(n,))
        if n
        else np.empty(0, about["type"])
        for name, n in zip(PARTS, about["tokens"], strict=True)
    )


def tokens_folder() -> Path:
    """Made if need be; OSError where it cannot be."""
    folder = cache_dir() / "tokens"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def cache_explained() -> Iterator[None]:
    """Turns an OSError of the cache folder into an InputError with the remedy."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the tokens of a large text are kept in {cache_dir()}, which cannot be used "
            f"({error.strerror or error}); name another folder in JAX_ATTN_CACHE"
        ) from error


class Progress:
    """A line every few seconds."""

    def __init__(self, say: Callable[[str], None], doing: str) -> None:
        self._say, self._doing, self._done = say, doing, 0
        self._begun = self._said = time.monotonic()

    def add(self, n: int) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._said >= LINE_EVERY_S:
            self._said = now
            rate = self._done / (now - self._begun) / 1e6
            self._say(f"{self._doing}: {self._done:,} ({rate:,.1f} million a second)")


def _about(folder: Path) -> dict[str, Any] | None:
    """What is known of tokens, if they are as they were made."""
    try:
        about = read_json(folder / "about.json")
        whole = about.pop("checksum") == _digest(about) and about["type"] in TYPES
        sizes = [(folder / f"{name}.bin").stat().st_size for name in PARTS]
        width = np.dtype(about["type"]).itemsize
        whole = whole and sizes == [n * width for n in about["tokens"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return about | {"folder": folder} if whole else None


def _write(path: Path, pieces: Iterable[NDArray[np.integer]], dtype: np.dtype) -> int:
    """Returns the number of tokens."""
    length = 0
    with path.open("wb") as file:
        for ids in pieces:
            file.write(np.ascontiguousarray(ids, dtype).data)
            length += len(ids)
    sync(path)
    return length


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]

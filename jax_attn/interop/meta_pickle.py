"""nanoGPT's meta.pkl: the characters of a corpus by id, read without running a pickle."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from jax_attn.data import CharTokenizer
from jax_attn.data.file_bytes import shown
from jax_attn.errors import InputError

MAX_BYTES = 1 << 26
# What dicts, lists, texts and numbers are pickled as. None of the others is needed for them, and
# those are what names classes, calls them, or reserves memory by a number.
PLAIN = {
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE"),
    *("PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"),
    *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("NONE", "NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
}
PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        raise InputError(f"it names {module_name}.{global_name}, which is not loaded")


def read_meta(path: Path) -> CharTokenizer:
    """The tokenizer whose id i is `itos[i]`, in whatever order they are.

    InputError for a file that is damaged, holds anything but plain values, or has no such table of
    characters.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"it is larger than {MAX_BYTES:,} bytes")
        return _tokenizer(_load(content))
    except InputError as error:
        raise InputError(f"{shown(path)} is no meta.pkl of characters: {error}") from error
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read ({error.strerror})") from error


def write_meta(path: Path, tokenizer: CharTokenizer) -> None:
    """As nanoGPT's data/shakespeare_char/prepare.py has it. OSError as usual."""
    itos = dict(enumerate(tokenizer.characters))
    stoi = {character: i for i, character in itos.items()}
    meta = {"vocab_size": tokenizer.vocab_size, "itos": itos, "stoi": stoi}
    path.write_bytes(pickle.dumps(meta))


def _load(content: bytes) -> Any:
    """Of dicts, lists, texts and numbers only. InputError for anything else."""
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name not in PLAIN:
                raise InputError(f"it is a pickle of more than plain values ({opcode.name})")
            if opcode.name in PUTS and not 0 <= (argument or 0) <= len(content):
                raise InputError("it is a damaged pickle")  # room would be made for so many
        return _PlainUnpickler(io.BytesIO(content)).load()
    except InputError:
        raise
    except Exception as error:  # damaged pickles raise of every kind
        raise InputError(f"it is a damaged pickle ({type(error).__name__})") from error


def _tokenizer(meta: Any) -> CharTokenizer:
    itos = meta.get("itos") if isinstance(meta, dict) else None
    if not isinstance(itos, dict) or not itos:
        raise InputError("it has no table itos")
    size = len(itos)
    if set(itos) != set(range(size)) or any(type(i) is not int for i in itos):
        raise InputError(f"the ids of its itos are not 0 to {size - 1}")
    symbols = [itos[i] for i in range(size)]
    wrong = [symbol for symbol in symbols if not isinstance(symbol, str) or len(symbol) != 1]
    if wrong:
        raise InputError(f"its itos has {wrong[0]!r:.40}, which is not one character")
    if meta.get("stoi") != {symbol: i for i, symbol in enumerate(symbols)}:
        raise InputError("its stoi is not the inverse of its itos")
    if meta.get("vocab_size", size) != size:
        raise InputError(f"its vocab_size is not the {size} of its itos")
    return CharTokenizer("".join(symbols))

"""Tokenizers by a setting, by the record that they travel as, and by a file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jax_attn.data.bpe import read_gpt2_files, train_bpe
from jax_attn.data.byte_tokenizer import ByteTokenizer
from jax_attn.data.char_tokenizer import CharTokenizer
from jax_attn.data.file_bytes import perhaps, shown
from jax_attn.data.subword_tokenizer import LibraryMissing, SubwordTokenizer
from jax_attn.data.tokenizer import Tokenizer
from jax_attn.errors import InputError
from jax_attn.json_files import read_json

CHOICES = (
    "char, bytes, bpe:N (N ids trained on the text), or the path of a tokenizer.json, of a "
    "vocab.json beside its merges.txt, or of a folder with either"
)


def make_tokenizer(spec: str, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """The tokenizer that a setting means.

    `spec` is one of CHOICES. `texts()` gives the pieces of the whole corpus, from the beginning at
    every call; it is called by the kinds that are made from a text. InputError, with the choices,
    for any other `spec`, and for a file that is missing or damaged.
    """
    if not isinstance(spec, str):
        raise InputError(f"tokens is a {type(spec).__name__}; it is to be {CHOICES}")
    if spec == "char":
        characters: set[str] = set()
        for text in texts():
            characters.update(text)
        return CharTokenizer("".join(sorted(characters)))
    if spec == "bytes":
        return ByteTokenizer()
    if re.fullmatch(r"bpe:[0-9]{1,9}", spec):
        return train_bpe(int(spec.removeprefix("bpe:")), texts())
    path = Path(spec)
    if os.path.isdir(spec):
        return _from_folder(path)
    if os.path.exists(spec):
        two = path.name in ("vocab.json", "merges.txt")
        return read_gpt2_files(path.parent) if two else load_tokenizer(path)
    raise InputError(
        f"tokens {spec!r:.200}: there is no such choice or file; it is to be "
        f"{CHOICES}{perhaps(path)}"
    )


def _from_folder(folder: Path) -> Tokenizer:
    if (folder / "tokenizer.json").exists():
        return load_tokenizer(folder / "tokenizer.json")
    if (folder / "vocab.json").exists() or (folder / "merges.txt").exists():
        return read_gpt2_files(folder)
    raise InputError(
        f"{shown(folder)}: a folder of a tokenizer has a tokenizer.json, or a vocab.json and a "
        "merges.txt"
    )


def tokenizer_of(record: Any) -> Tokenizer:
    """What a `record()` is of. InputError for anything else."""
    if isinstance(record, dict) and "model" in record:  # the library's own JSON
        return SubwordTokenizer(record)
    kind = record.get("kind", "characters") if isinstance(record, dict) else None
    if kind == "characters":
        return CharTokenizer.of(record)
    if kind == "bytes":
        return ByteTokenizer()
    raise InputError(f"there is no tokenizer of kind {kind!r:.100}")


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """From the `tokenizer.json` of a run or of others. InputError when it is missing or is none."""
    try:
        return tokenizer_of(read_json(Path(path)))
    except LibraryMissing:
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"{shown(Path(path))}: there is no such tokenizer file{perhaps(Path(path))}"
        ) from error
    except ValueError as error:
        raise InputError(f"{shown(Path(path))}: not a tokenizer file ({error})") from error

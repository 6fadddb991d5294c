"""A tokenizer that somebody names for weights which do not say theirs."""

from __future__ import annotations

import os
from pathlib import Path

from jax_attn.data import Tokenizer, load_corpus, make_tokenizer
from jax_attn.data.file_bytes import perhaps, shown
from jax_attn.errors import InputError
from jax_attn.interop.meta_pickle import read_meta


def read_tokenizer(path: str | os.PathLike[str], vocab_size: int) -> Tokenizer:
    """Of a tokenizer.json, vocab.json beside merges.txt, a folder with either, nanoGPT's meta.pkl.

    Any other file is a text, whose characters, sorted, are the ids: the lecture's tokenizer.
    "bytes" is that of bytes. InputError for what is missing or damaged, and for a text that has
    other than the model's `vocab_size` characters: that model learned on another one.
    """
    spec = os.fspath(path)
    path = Path(path)
    if (
        spec == "bytes"
        or os.path.isdir(path)
        or path.suffix == ".json"
        or path.name == "merges.txt"
    ):
        return make_tokenizer(spec, lambda: ())
    if not os.path.exists(path):
        raise InputError(f"{shown(path)}: there is no such tokenizer or text{perhaps(path)}")
    if path.suffix == ".pkl":
        return read_meta(path)
    tokenizer = load_corpus(spec, lambda line: None).tokenizer
    if tokenizer.vocab_size != vocab_size:
        raise InputError(
            f"{shown(path)} has {tokenizer.vocab_size:,} different characters, the model "
            f"{vocab_size:,} ids: give the text that it was trained on, or its tokenizer"
        )
    return tokenizer

"""Byte-level byte pair encoding, as GPT-2 has it: trained on a text, or read from its two files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jax_attn.data.file_bytes import shown
from jax_attn.data.fragments import fragments
from jax_attn.data.subword_tokenizer import SubwordTokenizer, library
from jax_attn.errors import InputError
from jax_attn.json_files import read_json, read_small

END_OF_TEXT = "<|endoftext|>"
FEWEST = 257  # ids: the bytes, and end-of-text
MOST = 1 << 20
LEAST_COUNT = 2  # a pair that the text has once is learnt by nobody


def train_bpe(n_ids: int, pieces: Iterable[str]) -> SubwordTokenizer:
    """`n_ids` ids, or as many as the text has pairs for; the last one is end-of-text.

    The first 256 are the bytes, so that no text is unknown. The same text gives the same ids,
    however it is cut. InputError for a number outside [FEWEST, MOST].
    """
    if not FEWEST <= n_ids <= MOST:
        raise InputError(
            f"bpe:{n_ids} is to have {FEWEST} to {MOST:,} ids: the 256 bytes, end-of-text, and "
            "what is merged of them"
        )
    tokenizers = library()
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = byte_level(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=n_ids - 1,
        min_frequency=LEAST_COUNT,
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(fragments(pieces), trainer)
    made.add_special_tokens([END_OF_TEXT])
    return SubwordTokenizer(json.loads(made.to_str()))


def read_gpt2_files(folder: Path) -> SubwordTokenizer:
    """From `vocab.json` and `merges.txt` in a folder. InputError when they are none of these."""
    where = shown(folder)
    try:
        vocab = read_json(folder / "vocab.json")
        lines = read_small(folder / "merges.txt").decode("utf-8").split("\n")
    except ValueError as error:
        raise InputError(f"{where}: vocab.json or merges.txt is damaged ({error})") from error
    except FileNotFoundError as error:
        raise InputError(
            f"{where}: GPT-2's two files are vocab.json and merges.txt; {error}"
        ) from error
    lines = [line.rstrip("\r") for line in lines]
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    wrong = next((pair for pair in merges if len(pair) != 2), None)
    if wrong is not None:
        raise InputError(
            f"{where}: merges.txt has a line that is no pair: {' '.join(wrong)!r:.100}"
        )
    if any(token.endswith("</w>") for token in vocab):
        raise InputError(f"{where}: its tokens end words by </w>: give the tokenizer.json of it")
    byte_level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    record = {
        "version": "1.0",
        "added_tokens": [_special(vocab[END_OF_TEXT])] if END_OF_TEXT in vocab else [],
        "pre_tokenizer": {"type": "ByteLevel"} | byte_level,
        "decoder": {"type": "ByteLevel"} | byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }
    try:
        return SubwordTokenizer(record)
    except InputError as error:
        raise InputError(f"{where}: no tokenizer as GPT-2's ({error})") from error


def _special(id: Any) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": END_OF_TEXT, "special": True} | plain

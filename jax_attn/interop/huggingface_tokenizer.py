"""Tokenizers as the files that Hugging Face's AutoTokenizer reads."""

from __future__ import annotations

from typing import Any

from jax_attn.data import ByteTokenizer, CharTokenizer, Tokenizer
from jax_attn.data.byte_tokenizer import surrogates
from jax_attn.data.subword_decoding import BYTE_OF

BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}


def tokenizer_files(tokenizer: Tokenizer, block_size: int) -> dict[str, dict[str, Any]]:
    """Contents by file name; none where its JSON cannot hold a symbol, as half a character."""
    if isinstance(tokenizer, CharTokenizer):
        if surrogates(tokenizer.characters):
            return {}
        vocab = {character: i for i, character in enumerate(tokenizer.characters)}
        content = _without_merges(vocab, None, {"type": "Fuse"})
    elif isinstance(tokenizer, ByteTokenizer):
        content = _without_merges(BYTE_OF, BYTE_LEVEL, BYTE_LEVEL)
    else:
        content = tokenizer.record()
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
    }
    if tokenizer.end_of_text is not None:
        config["eos_token"] = tokenizer.symbol(tokenizer.end_of_text)
    return {"tokenizer.json": content, "tokenizer_config.json": config}


def _without_merges(
    vocab: dict[str, int], pre_tokenizer: dict[str, Any] | None, decoder: dict[str, Any]
) -> dict[str, Any]:
    """A BPE that has learnt nothing: every symbol stays a token of its own."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [],
        },
    }

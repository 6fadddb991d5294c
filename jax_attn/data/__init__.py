"""Corpora and tokenizers: from a text to token ids, and back."""

from jax_attn.data.built_in import BUILT_IN
from jax_attn.data.byte_tokenizer import ByteTokenizer
from jax_attn.data.cache import cache_dir
from jax_attn.data.char_tokenizer import CharTokenizer
from jax_attn.data.corpus import Corpus, load_corpus
from jax_attn.data.make_tokenizer import load_tokenizer, make_tokenizer, tokenizer_of
from jax_attn.data.tokenizer import UNITS, Tokenizer, UnknownCharacters

__all__ = [
    "BUILT_IN",
    "UNITS",
    "ByteTokenizer",
    "CharTokenizer",
    "Corpus",
    "Tokenizer",
    "UnknownCharacters",
    "cache_dir",
    "load_corpus",
    "load_tokenizer",
    "make_tokenizer",
    "tokenizer_of",
]

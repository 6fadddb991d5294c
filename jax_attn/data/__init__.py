"""Corpora and tokenizers: from a text to token ids, and back."""

from jax_attn.data.cache import cache_dir
from jax_attn.data.char_tokenizer import CharTokenizer
from jax_attn.data.corpus import BUILT_IN, Corpus, load_corpus
from jax_attn.data.tokenizer import Tokenizer, load_tokenizer, tokenizer_of

__all__ = [
    "BUILT_IN",
    "CharTokenizer",
    "Corpus",
    "Tokenizer",
    "cache_dir",
    "load_corpus",
    "load_tokenizer",
    "tokenizer_of",
]

"""Corpora: a text as token ids, to train on and to validate with."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jax_attn.config import Paths
from jax_attn.data.char_tokenizer import CharTokenizer
from jax_attn.data.characters import Characters
from jax_attn.data.documents import given_paths, in_words
from jax_attn.data.encoded import encoded, n_characters
from jax_attn.data.given_text import GivenText, ReadText, training_part
from jax_attn.data.make_tokenizer import make_tokenizer, tokenizer_of
from jax_attn.data.odd_text import MARK
from jax_attn.data.token_file import (
    Progress,
    TokenFiles,
    cache_explained,
    open_tokens,
    tokens_folder,
)
from jax_attn.data.tokenizer import UNITS, Tokenizer
from jax_attn.domains import OPEN_FRACTION
from jax_attn.errors import InputError
from jax_attn.text_encoding import require_text_encoding

Say = Callable[[str], None]


def _on_standard_error(line: str) -> None:
    print(line, file=sys.stderr)


Check = Callable[[list[tuple[Paths, str]]], object]


@dataclass(frozen=True)
class Corpus:
    """A text as token ids: the first 90 %, by default, to train on, the rest to validate with.

    Tokens of a large text are maps of files (np.memmap), to be looked at in parts.
    """

    name: Paths  # what `load_corpus` finds it by
    sha256: str  # of the text that was given to train on: README.md says of which bytes
    tokenizer: Tokenizer
    train: NDArray[np.integer]
    validation: NDArray[np.integer]
    characters: tuple[int, int]  # that each of the two stands for
    documents: int = 1  # files, or the one text without
    validation_name: Paths | None = None  # of a text of its own
    validation_sha256: str | None = None

    def with_mark(self) -> Corpus:
        """The same text with a byte order mark before it as its first symbol, as runs once had."""
        assert isinstance(self.tokenizer, CharTokenizer)  # there was no other kind then
        tokenizer = CharTokenizer("".join(sorted({MARK, *self.tokenizer.characters})))
        moved = tokenizer.encode(self.tokenizer.characters)
        parts = tokenizer.encode(MARK), moved[self.train], moved[self.validation]
        tokens = np.concatenate(parts)
        n = training_part(len(tokens), 0.1)
        return replace(
            self,
            tokenizer=tokenizer,
            train=tokens[:n],
            validation=tokens[n:],
            characters=(n, len(tokens) - n),
        )

    def require_block(self, block_size: int) -> None:
        """Raises InputError unless both parts hold a window of `block_size` and its target."""
        name = in_words(self.name)
        if self.validation_name is not None and len(self.validation) < 2:
            raise InputError(
                f"{in_words(self.validation_name)}: {len(self.validation)} tokens are too few to "
                "validate with; give a longer text"
            )
        if len(self.train) < block_size + 1 or len(self.validation) < 2:
            n = len(self.train) + len(self.validation)
            unit = UNITS[self.tokenizer.unit]
            raise InputError(
                f"{name}: {n} {unit} are too few for block_size {block_size}; give a longer text "
                "or a smaller --block-size"
            )


def load_corpus(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    warn: Say = _on_standard_error,
    *,
    encoding: str = "utf-8",
    fetch: bool = True,
    validation: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    validation_fraction: float = 0.1,
    tokens: str = "char",
    tokenizer: Tokenizer | None = None,
    check: Check = lambda texts: None,
) -> Corpus:
    """The corpus named "tinyshakespeare" or "python-docs", or the text at the path `data`.

    A path is of a file, also of a .gz, or of a folder, of which all *.txt and *.md are read, .gz or
    not; there may be several. What to validate with is at `validation`, or else the last
    `validation_fraction` of the text's characters. `tokenizer` makes the tokens or, if it is None,
    the one that `tokens` says, as `TrainConfig.tokens`, which knows both texts.

    tinyshakespeare is fetched once into `cache_dir()` and checked against its hash. Where that is
    impossible, or `fetch` is False, `warn` (by default standard error) gets one line, and the
    standard library's documentation takes its place. `encoding`, a codec of Python's, is of files
    of one's own; what is odd in them is a line for `warn`, too. Raises InputError for a file that
    is missing, empty, not in that encoding or plainly no text.

    `check` gets the names and SHA-256s of the texts before anything is made of them.

    Tokens of a large text, more than 64 MiB of characters' ids, are written into the cache
    folder once, of which `warn` gets lines, and mapped from there.
    """
    require_text_encoding(encoding)
    OPEN_FRACTION.check("validation_fraction", validation_fraction)
    given = [GivenText.of(given_paths(data), encoding, warn, fetch)]
    if validation is not None:
        given.append(GivenText.of(given_paths(validation), encoding, warn, fetch))
    loading = _Loading(given, encoding, validation_fraction, tokens, tokenizer, warn, check)
    return loading.kept() or loading.read()


@dataclass(frozen=True)
class _Loading:
    """What `load_corpus` was asked for."""

    given: list[GivenText]
    encoding: str
    validation_fraction: float
    tokens: str
    tokenizer: Tokenizer | None
    warn: Say
    check: Check

    def kept(self) -> Corpus | None:
        """From token files, for large texts that have them. Of these only the hash is taken."""
        sizes = [size for given in self.given if (size := given.size()) is not None]
        if len(sizes) < len(self.given) or sum(sizes) <= Characters.MOST_IN_MEMORY:
            return None
        progress = Progress(self.warn, "bytes looked at")
        hashes = [given.sha256(progress.add) for given in self.given]
        self._check(hashes)
        with cache_explained():
            about = self._files(hashes).find(self.tokens, self._tokenizer_before_reading())
        return None if about is None else self._mapped(hashes, about)

    def read(self) -> Corpus:
        """By reading the characters, each once."""
        progress = Progress(self.warn, "bytes read")
        with cache_explained(), contextlib.closing(Characters(tokens_folder)) as characters:
            text = ReadText.read(
                self.given, self.validation_fraction, characters, self.warn, progress.add
            )
            self._check(text.hashes)
            return self._large(text) if characters.large else self._small(text)

    def _small(self, text: ReadText) -> Corpus:
        tokenizer = self.tokenizer or self._make_tokenizer(text)
        train, validation = (_in_memory(text, part, tokenizer) for part in text.parts())
        counts = [n_characters(text, part, tokenizer) for part in text.parts()]
        return self._corpus(text.hashes, tokenizer, train, validation, counts)

    def _large(self, text: ReadText) -> Corpus:
        files = self._files(text.hashes)
        with files.locked(self.warn):
            about = files.find(self.tokens, self._tokenizer_before_reading())
            if about is None:
                tokenizer = self.tokenizer or self._make_tokenizer(text)
                about = files.find(self.tokens, tokenizer)  # made for a tokenizer that was given
                about = about or self._make(files, text, tokenizer)
        return self._mapped(text.hashes, about)

    def _make(self, files: TokenFiles, text: ReadText, tokenizer: Tokenizer) -> dict:
        name = in_words(self.given[0].name)
        self.warn(f"{name} is large: its tokens are written once, and read from {tokens_folder()}")
        progress = Progress(self.warn, "tokens written")

        def counted(part: tuple[int, int]):
            for ids in encoded(text, part, tokenizer):
                yield ids
                progress.add(len(ids))

        counts = [n_characters(text, part, tokenizer) for part in text.parts()]
        return files.make(
            self.tokens if self.tokenizer is None else "",
            tokenizer,
            map(counted, text.parts()),
            {"characters": counts},
        )

    def _make_tokenizer(self, text: ReadText) -> Tokenizer:
        characters = text.characters
        if self.tokens == "char":  # the symbols are known already
            return CharTokenizer("".join(sorted(characters.symbols)))
        return make_tokenizer(self.tokens, lambda: characters.texts(0, len(characters)))

    def _tokenizer_before_reading(self) -> Tokenizer | None:
        """The one that was given, or that needs no text; None for one that is made of the text."""
        if self.tokenizer is not None or self.tokens == "char" or self.tokens.startswith("bpe:"):
            return self.tokenizer
        return make_tokenizer(self.tokens, tuple)

    def _check(self, hashes: Sequence[str]) -> None:
        self.check([(text.name, sha256) for text, sha256 in zip(self.given, hashes, strict=True)])

    def _files(self, hashes: Sequence[str]) -> TokenFiles:
        own = self.validation_fraction if len(self.given) == 1 else None
        return TokenFiles(*hashes, own, codecs.lookup(self.encoding).name)

    def _mapped(self, hashes: Sequence[str], about: dict) -> Corpus:
        tokenizer = self.tokenizer or tokenizer_of(about["tokenizer"])
        train, validation = open_tokens(about)
        return self._corpus(hashes, tokenizer, train, validation, about["characters"])

    def _corpus(
        self,
        hashes: Sequence[str],
        tokenizer: Tokenizer,
        train: NDArray[np.integer],
        validation: NDArray[np.integer],
        characters: Sequence[int],
    ) -> Corpus:
        own = len(self.given) > 1
        return Corpus(
            self.given[0].name,
            hashes[0],
            tokenizer,
            train,
            validation,
            (characters[0], characters[1]),
            sum(given.n_documents for given in self.given),
            self.given[1].name if own else None,
            hashes[1] if own else None,
        )


def _in_memory(
    text: ReadText, part: tuple[int, int], tokenizer: Tokenizer
) -> NDArray[np.unsignedinteger]:
    pieces = list(encoded(text, part, tokenizer))
    return np.concatenate([np.empty(0, tokenizer.dtype), *pieces], dtype=tokenizer.dtype)

"""Corpora: a text as token ids, and the train/validation split."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jax_attn.data.cache import cache_dir
from jax_attn.data.char_tokenizer import CharTokenizer
from jax_attn.data.make_tokenizer import make_tokenizer
from jax_attn.data.text_file import MARK, lasting_name, read_text_file
from jax_attn.data.tokenizer import UNITS, Tokenizer
from jax_attn.errors import InputError
from jax_attn.text_encoding import require_text_encoding

# Notebook address of the lecture's corpus: 1,115,394 characters, 65 symbols.
TINYSHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
BUILT_IN = ("tinyshakespeare", "python-docs")
DOWNLOAD_TIMEOUT_S = 10


@dataclass(frozen=True)
class Corpus:
    """A text as token ids: the first 90 % to train on, the rest to validate."""

    name: str  # what `load_corpus` finds it by
    sha256: str  # of the file's bytes, whatever they encode; of UTF-8's where there is no file
    tokenizer: Tokenizer
    tokens: NDArray[np.integer]

    @property
    def n_train(self) -> int:
        return int(0.9 * len(self.tokens))

    @property
    def characters(self) -> tuple[int, int]:
        """Of the text to train on, and of that to validate with."""
        count = self.tokenizer.count_characters
        return count(self.train), count(self.validation)

    @property
    def train(self) -> NDArray[np.integer]:
        return self.tokens[: self.n_train]

    @property
    def validation(self) -> NDArray[np.integer]:
        return self.tokens[self.n_train :]

    def with_mark(self) -> Corpus:
        """The same text with a byte order mark before it as its first symbol, as runs once had."""
        assert isinstance(self.tokenizer, CharTokenizer)
        tokenizer = CharTokenizer("".join(sorted({MARK, *self.tokenizer.characters})))
        moved = tokenizer.encode(self.tokenizer.characters)
        tokens = np.concatenate([tokenizer.encode(MARK), moved[self.tokens]])
        return replace(self, tokenizer=tokenizer, tokens=tokens)

    def require_block(self, block_size: int) -> None:
        """Raises InputError unless both splits hold a window of `block_size` and its target."""
        shorter = min(len(self.train), len(self.validation))
        if len(self.tokens) < block_size + 2 or shorter < 2 or len(self.train) < block_size + 1:
            n, unit = len(self.tokens), UNITS[self.tokenizer.unit]
            raise InputError(
                f"{self.name}: {n} {unit} are too few for block_size "
                f"{block_size}; give a longer text or a smaller --block-size"
            )


def load_corpus(
    data: str,
    warn: Callable[[str], None],
    *,
    encoding: str = "utf-8",
    fetch: bool = True,
    tokens: str = "char",
    tokenizer: Tokenizer | None = None,
) -> Corpus:
    corpus = _load_corpus(data, warn, encoding=encoding, fetch=fetch)
    if tokenizer is None and tokens == "char":
        return corpus
    text = corpus.tokenizer.decode(corpus.tokens)
    tokenizer = tokenizer or make_tokenizer(tokens, lambda: [text])
    ids = list(tokenizer.encode_pieces([text]))
    return replace(corpus, tokenizer=tokenizer, tokens=np.concatenate(ids))


def _load_corpus(
    data: str, warn: Callable[[str], None], *, encoding: str = "utf-8", fetch: bool = True
) -> Corpus:
    """The corpus named "tinyshakespeare" or "python-docs", or the text in the file at path `data`.

    tinyshakespeare is fetched once into `cache_dir()` and checked against its hash. Where that is
    impossible, or `fetch` is False, `warn` gets one line and the standard library's documentation
    takes its place. `encoding`, a codec of Python's, is of a file of one's own; what is odd in that
    is a line for `warn`, too. Raises InputError for a file that is missing, empty, not in that
    encoding or plainly no text.
    """
    if not isinstance(data, str):
        raise InputError(f"data is a {type(data).__name__}, not a name or the path of a text")
    require_text_encoding(encoding)
    if data in BUILT_IN and codecs.lookup(encoding).name != "utf-8":
        raise InputError(f"{data} is in UTF-8: an encoding goes with --data PATH only")
    if data == "tinyshakespeare":
        try:
            return _read_file(_fetch_tinyshakespeare(fetch), data, "utf-8", warn)
        except (OSError, ModuleNotFoundError) as error:
            missing = isinstance(error, ModuleNotFoundError)
            reason = f"{error.name} is not installed" if missing else type(error).__name__
            warn(
                f"tinyshakespeare is neither in {cache_dir()} nor to be fetched ({reason}); "
                "going on with --data python-docs"
            )
            data = "python-docs"
    if data == "python-docs":
        return _python_docs()
    return _read_file(Path(data), lasting_name(Path(data)), encoding, warn)


def _read_file(path: Path, name: str, encoding: str, warn: Callable[[str], None]) -> Corpus:
    text = read_text_file(path, encoding, warn)
    return Corpus(name, text.sha256, CharTokenizer(text.characters), text.tokens)


def _fetch_tinyshakespeare(fetch: bool) -> Path:
    """Path of the checked copy. OSError when there is none and none can be fetched.

    ModuleNotFoundError where the downloader is not installed.
    """
    path = cache_dir() / "tinyshakespeare.txt"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == TINYSHAKESPEARE_SHA256:
        return path  # spares the half second that importing the downloader takes
    if not fetch:
        raise FileNotFoundError(path)
    import logging

    import pooch

    pooch.get_logger().setLevel(logging.ERROR)
    try:
        fetched = pooch.retrieve(
            TINYSHAKESPEARE_URL,
            known_hash=f"sha256:{TINYSHAKESPEARE_SHA256}",
            fname=path.name,
            path=path.parent,
            # pooch's own annotation leaves its downloader out of its Downloader protocol.
            downloader=pooch.HTTPDownloader(timeout=DOWNLOAD_TIMEOUT_S),  # pyright: ignore[reportArgumentType]
        )
    except ValueError as error:  # what arrived has another hash
        raise OSError(str(error)) from error
    return Path(fetched)


def _python_docs() -> Corpus:
    """The help texts of the standard library, which every full CPython carries."""
    try:
        from pydoc_data import topics
    except ImportError as error:
        raise InputError(
            "this Python carries no pydoc_data; give a text of your own with --data PATH"
        ) from error
    text = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    digest = hashlib.sha256(text.encode()).hexdigest()
    tokenizer = CharTokenizer.from_text(text)
    return Corpus("python-docs", digest, tokenizer, tokenizer.encode(text))

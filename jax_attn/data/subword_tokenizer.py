"""Tokens of Hugging Face's `tokenizers` library: BPE, WordPiece, Unigram, whole words."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jax_attn.data.byte_tokenizer import BEGINS_A_CHARACTER, surrogates
from jax_attn.data.fragments import fragments
from jax_attn.data.ids import checked_ids, require_inside
from jax_attn.data.subword_decoding import byte_table, decoded_by_library, decoded_bytes
from jax_attn.data.tokenizer import Tokenizer, UnknownCharacters
from jax_attn.errors import InputError

MOST_IDS = 1 << 22  # far above any vocabulary: a table of so many bytes is still a small one
BATCH = 64  # fragments that are encoded at once, on all cores
BLOCK = 1 << 20  # ids that are counted at once
# What the end of a document is called, most usual first.
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")


class LibraryMissing(InputError):
    """Such tokens are made by a library that is not installed."""


def library() -> Any:
    """The module `tokenizers`. LibraryMissing where there is none."""
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise LibraryMissing(
            'such tokens need the tokenizers library: pip install "jax-attn[tokens]"'
        ) from error
    return tokenizers


class SubwordTokenizer(Tokenizer):
    """A tokenizer of the library's, whose record is the library's own JSON.

    Nothing is added to a text, cut off or drawn: special tokens of a beginning, truncation, padding
    and dropout of merges are left out, and what is written of a special token is that token.
    """

    unit = "token"

    def __init__(self, record: dict[str, Any]) -> None:
        """`record` is the library's JSON, of a run or of others. InputError for any other."""
        model = record.get("model")
        if isinstance(model, dict) and "dropout" in model:
            model = model | {"dropout": None}
        self._record = record | {"truncation": None, "padding": None, "model": model}
        tokenizers = library()
        with _faults_of_the_library():
            self._made = made = tokenizers.Tokenizer.from_str(json.dumps(self._record))
        vocab: dict[str, int] = made.get_vocab(with_added_tokens=True)
        self._size = max(vocab.values(), default=-1) + 1
        if not 0 < self._size <= MOST_IDS:
            raise InputError(f"its ids go up to {self._size - 1:,}; a model has 1 to {MOST_IDS:,}")
        # By id, since Unigram may have a token twice; what is left out is no id's.
        names = {id: token for token, id in vocab.items()}
        for id in set(range(self._size)).difference(names):
            token = made.id_to_token(id)
            if token is not None:
                names[id] = token
        self._known = np.zeros(self._size, np.bool_)
        self._known[list(names)] = True
        self._special = np.zeros(self._size, np.bool_)
        added = made.get_added_tokens_decoder()
        self._special[[id for id, token in added.items() if token.special]] = True
        self.end_of_text = next((vocab[name] for name in END_OF_TEXT if name in vocab), None)
        # What each id is in UTF-8, where ids are made of bytes, as GPT-2's are.
        byte_level = (record.get("decoder") or {}).get("type") == "ByteLevel"
        self._bytes = byte_table(names, {t.content for t in added.values()}) if byte_level else None
        self._accepted: set[str] = set()  # characters that have been tried
        newline = self._ids("\n")
        first = self.end_of_text if self.end_of_text is not None else int(self._known.argmax())
        self.start = newline[0] if len(newline) == 1 else first

    @property
    def vocab_size(self) -> int:
        return self._size

    @property
    def known(self) -> NDArray[np.bool_]:
        return self._known

    def unknown(self, text: str) -> str:
        """Those that the library would leave out without a word."""
        new = set(text) - self._accepted
        refused = {character for character in new if self._leaves_out(character)}
        self._accepted |= new - refused
        return "".join(sorted(refused))

    def encode(self, text: str) -> NDArray[np.integer]:
        self._require_known(text)
        return np.array(self._ids(text), self.dtype)

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[NDArray[np.integer]]:
        """Cut anew where no token goes on, as far as can be seen from there."""
        batch: list[str] = []
        for fragment in fragments(pieces, self._is_safe):
            batch.append(fragment)
            if len(batch) == BATCH:
                yield self._encode_batch(batch)
                batch = []
        if batch:
            yield self._encode_batch(batch)

    def decode(self, ids: Sequence[int] | NDArray[np.integer], errors: str = "strict") -> str:
        return "".join(self._decoded([checked_ids(ids)], errors))

    def decode_pieces(self, pieces: Iterable[NDArray[np.integer]]) -> Iterator[str]:
        return self._decoded(map(checked_ids, pieces), "replace")

    def symbol(self, id: int) -> str:
        if not 0 <= id < self._size or not self._known[id]:
            return "\ufffd"
        if self._bytes is None:
            return self._made.id_to_token(id)
        return self._bytes[id].decode("utf-8", "backslashreplace")

    def count_characters(self, ids: NDArray[np.integer]) -> int:
        """Special tokens have none."""
        blocks = (ids[i : i + BLOCK] for i in range(0, len(ids), BLOCK))
        if self._bytes is None:
            texts = self.decode_pieces(block[~self._special[block]] for block in blocks)
            return sum(map(len, texts))
        lengths = np.zeros(self._size, np.int64)
        for id, token in self._bytes.items():
            if not self._special[id]:
                lengths[id] = np.count_nonzero(BEGINS_A_CHARACTER[np.frombuffer(token, np.uint8)])
        return sum(int(lengths[block].sum()) for block in blocks)

    def about_unknown(self, ids: NDArray[np.integer]) -> str | None:
        inside = require_inside(checked_ids(ids), self._size, "replace")
        n = int(np.count_nonzero(~inside)) + int(np.count_nonzero(~self._known[ids[inside]]))
        if n:
            return (
                f"{n:,} of its {len(ids):,} ids stand for no token and show as \ufffd: the model "
                f"knows more ids than the tokenizer has ({np.count_nonzero(self._known):,})"
            )
        if self._bytes is None:
            return None
        try:
            b"".join(self._bytes[id] for id in ids.tolist()).decode("utf-8")
        except UnicodeDecodeError:
            return "bytes that make no character show as \ufffd: a longer training has fewer"
        return None

    def describe(self) -> str:
        digest = hashlib.sha256(json.dumps(self._record).encode()).hexdigest()
        kind = self._record["model"].get("type", "their own")
        return f"{np.count_nonzero(self._known):,} tokens of {kind}, sha256 {digest[:12]}…"

    def record(self) -> dict[str, Any]:
        return self._record

    def _ids(self, text: str) -> list[int]:
        with _faults_of_the_library():
            return self._made.encode(text, add_special_tokens=False).ids

    def _encode_batch(self, texts: list[str]) -> NDArray[np.integer]:
        for text in texts:
            self._require_known(text)
        with _faults_of_the_library():
            encoded = self._made.encode_batch_fast(texts, add_special_tokens=False)
        return np.concatenate([np.array(one.ids, self.dtype) for one in encoded])

    def _is_safe(self, before: str, after: str) -> bool:
        if surrogates(before + after):
            return True  # to be refused in a moment
        return self._ids(before + after) == self._ids(before) + self._ids(after)

    def _require_known(self, text: str) -> None:
        unknown = self.unknown(text)
        if unknown:
            raise UnknownCharacters(unknown)

    def _leaves_out(self, character: str) -> bool:
        """Whether nothing would stand for a character that is not meant to be taken away."""
        if surrogates(character):
            return True
        made = self._made
        if made.normalizer is not None:
            character = made.normalizer.normalize_str(character)
        words = [character] if character else []
        if made.pre_tokenizer is not None:
            words = [word for word, _ in made.pre_tokenizer.pre_tokenize_str(character)]
        unknown = getattr(made.model, "unk_token", None)
        if self._bytes is None or unknown is not None:
            return bool(words) and not self._ids(character)
        # A character of several bytes may lose one of them.
        return any(made.token_to_id(byte) is None for word in words for byte in word)

    def _decoded(self, pieces: Iterable[NDArray[np.int64]], errors: str) -> Iterator[str]:
        """A text for each piece, and the rest."""
        checked = (self._checked(ids, errors) for ids in pieces)
        if self._bytes is not None:
            return decoded_bytes(checked, self._bytes)
        return decoded_by_library(checked, self._made)

    def _checked(self, ids: NDArray[np.int64], errors: str) -> list[int]:
        """-1 for those that stand for nothing. InputError, if `errors` is strict, for them."""
        inside = require_inside(ids, self._size, errors)
        inside[inside] = self._known[ids[inside]]
        if errors == "strict" and not inside.all():
            raise InputError(f"ids of no token: {np.unique(ids[~inside])[:10].tolist()}")
        return np.where(inside, ids, -1).tolist()


@contextlib.contextmanager
def _faults_of_the_library() -> Iterator[None]:
    """As an InputError, in one line; it raises plain Exceptions, and panics that are none."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        line = " ".join(str(error).split())
        raise InputError(f"the tokenizers library refuses it: {line:.200}") from error

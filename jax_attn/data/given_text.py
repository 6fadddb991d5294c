"""A text as it was asked for, and what reading it gives."""

from __future__ import annotations

import codecs
import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jax_attn.config import Paths
from jax_attn.data.built_in import BUILT_IN, python_docs, tinyshakespeare
from jax_attn.data.characters import Characters
from jax_attn.data.documents import documents_of, in_words, lasting_names, size_in_bytes
from jax_attn.data.file_bytes import file_bytes
from jax_attn.data.text_file import read_text_file
from jax_attn.errors import InputError

MOST_REMARKS = 5  # on the documents of a text
JOINT = "\n"  # between two documents; where a tokenizer has an end-of-text, that stands for it

Say = Callable[[str], None]


@dataclass(frozen=True)
class GivenText:
    """Not yet read."""

    name: Paths  # by which it is found later
    documents: list[Path]
    text: str | None  # of what is in no file
    encoding: str

    @classmethod
    def of(cls, data: Paths, encoding: str, warn: Say, fetch: bool = True) -> GivenText:
        """InputError for a folder without texts, and for a built-in text among others."""
        several = () if isinstance(data, str) else data
        if together := set(BUILT_IN).intersection(several):
            raise InputError(f"{min(together)} goes with no other text; name it alone")
        if data not in BUILT_IN:
            return cls(lasting_names(data), documents_of(data, warn), None, encoding)
        if codecs.lookup(encoding).name != "utf-8":
            raise InputError(f"{data} is in UTF-8: an encoding goes with --data PATH only")
        path = tinyshakespeare(fetch, warn) if data == "tinyshakespeare" else None
        if path is None:
            return cls("python-docs", [], python_docs(), "utf-8")
        return cls(data, [path], None, "utf-8")

    @property
    def n_documents(self) -> int:
        return max(1, len(self.documents))

    def size(self) -> int | None:
        """Bytes of its files; None where one can be read only once."""
        return size_in_bytes(self.documents) if self.text is None else len(self.text)

    def sha256(self, read: Callable[[int], object]) -> str:
        """As of `read_into`, without a look at what the bytes mean."""
        if self.text is not None:
            return _of_all([hashlib.sha256(self.text.encode()).hexdigest()])
        digests = []
        for path in self.documents:
            digest = hashlib.sha256()
            for piece in file_bytes(path, lambda line: None):
                digest.update(piece)
                read(len(piece))
            digests.append(digest.hexdigest())
        return _of_all(digests)

    def read_into(
        self, characters: Characters, warn: Say, read: Callable[[int], object]
    ) -> tuple[str, list[int]]:
        """Adds it to `characters`; its SHA-256, and the places of the joints of its documents.

        The SHA-256 is that of a file's bytes, in a .gz those that are packed, in UTF-8's of a text
        in no file; of several files, that of their SHA-256s as lines in hexadecimal digits.
        """
        if self.text is not None:
            characters.add(self.text)
            return hashlib.sha256(self.text.encode()).hexdigest(), []
        digests, joints, say = [], [], _few(warn, MOST_REMARKS if self.documents[1:] else None)
        for path in self.documents:
            if digests:
                joints.append(len(characters))
                characters.add(JOINT)
            digests.append(read_text_file(path, self.encoding, characters, say, read))
        return _of_all(digests), joints


@dataclass(frozen=True)
class ReadText:
    """The text to train on and that to validate with, as characters."""

    characters: Characters
    hashes: list[str]  # SHA-256s of the one that was given to train on, and of the other if any
    joints: list[int]  # places, in order
    n_train: int  # characters to train on; the rest are to validate with

    @classmethod
    def read(
        cls,
        given: Sequence[GivenText],
        validation_fraction: float,
        characters: Characters,
        warn: Say,
        read: Callable[[int], object] = lambda n_bytes: None,
    ) -> ReadText:
        """Of one text, of which `validation_fraction` is to validate with, or of two."""
        sha256, joints = given[0].read_into(characters, warn, read)
        if len(given) == 1:
            n_train = training_part(len(characters), validation_fraction)
            return cls(characters, [sha256], joints, n_train)
        n_train = len(characters)
        other, more = given[1].read_into(characters, warn, read)
        if other == sha256:
            warn(f"{in_words(given[1].name)}: the text to validate with is the one to train on")
        return cls(characters, [sha256, other], joints + more, n_train)

    def parts(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where each begins, and ends before."""
        return (0, self.n_train), (self.n_train, len(self.characters))

    def between_joints(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Parts of documents, parted by joints; the first and the last may be empty."""
        for joint in self.joints[bisect_left(self.joints, begin) : bisect_left(self.joints, end)]:
            yield begin, joint
            begin = joint + 1
        yield begin, end


def training_part(n: int, validation_fraction: float) -> int:
    """How many of `n` come before the others, which are to validate with."""
    return int((1 - validation_fraction) * n)


def _of_all(digests: list[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def _few(warn: Say, most: int | None) -> Say:
    """`warn` for the first lines, and a word that there are more."""
    said = 0

    def say(line: str) -> None:
        nonlocal said
        said += 1
        if most is None or said <= most:
            warn(line)
        elif said == most + 1:
            warn("other files give cause for such remarks, too")

    return say

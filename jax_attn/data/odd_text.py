"""What is odd in a text, and no reason to refuse it."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from jax_attn.data.characters import Characters
from jax_attn.text_encoding import (
    LATIN,
    OTHERS,
    beyond_ascii,
    decodes_better,
    misread,
    textual_kind,
)

MARK = "\ufeff"  # the byte order mark, where it is a character
LOST = "\ufffd"  # what stands where something could not be decoded
CONTROL = frozenset(map(chr, (*range(32), *range(0x7F, 0xA0)))) - set("\t\n\v\f\r\x85")


def remarks(characters: Characters, begin: int, beginning: str, encoding: str) -> Iterator[str]:
    """Lines on what is odd in the text from `begin` on, which starts with `beginning`."""
    odd = {*CONTROL, MARK, LOST}.intersection(characters.symbols)
    counts = {c: n for c in sorted(odd) if (n := characters.count(c, begin, len(characters)))}

    def count(character: str) -> str:
        n = counts[character]
        return "once" if n == 1 else f"{n:,} times"

    kind = textual_kind(beginning)
    if kind:
        yield f"it looks like {kind}, and is taken as it stands"
    control = [c for c in counts if c in CONTROL]
    if control:
        several = f" and {len(control) - 3} others" if len(control) > 3 else ""
        which = ", ".join(f"{c!r} {count(c)}" for c in control[:3])
        yield f"it has control characters: {which}{several}"
    if MARK in counts:
        yield f"it has the byte order mark of a file inside, {MARK!r}, {count(MARK)}"
    if LOST in counts:
        yield f"it has the sign of a lost character, {LOST!r}, {count(LOST)}: how was it made?"
    meant, given = misread(beginning), codecs.lookup(encoding).name
    if given.startswith("utf"):
        if meant:
            yield f"it looks like {meant} that was read as cp1252 when the file was made"
        return
    if given in map(_canonical, ("latin-1", *LATIN, *OTHERS)):
        meant = decodes_better(beyond_ascii(beginning).encode(encoding, "ignore"), given)
    if meant:
        yield f"it looks more like {meant} than {encoding}: give --encoding {meant}"


def _canonical(encoding: str) -> str:
    return codecs.lookup(encoding).name

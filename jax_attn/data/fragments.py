"""A text in fragments that a tokenizer of words may take one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

SIZE = 1 << 15  # characters of a fragment, about
CONTEXT = 61  # characters on each side that `safe` sees
TRIES = 64  # a tokenizer that agrees to none of so many places agrees to none


def always(before: str, after: str) -> bool:
    return True


def fragments(pieces: Iterable[str], safe: Callable[[str, str], bool] = always) -> Iterator[str]:
    """The joined text in fragments, in the order of the text, none empty.

    It is cut only before a space or a newline that no white space precedes, where `safe` agrees
    when it is given `CONTEXT` characters on each side. There no word of GPT-2's pattern goes on,
    whatever follows, so its words are the same in the fragments as in the whole. A text without
    such a place is one fragment.
    """
    held = ""
    for piece in pieces:
        held += piece
        begin = 0
        while place := _first_place(held, begin + SIZE, safe):
            yield held[begin:place]
            begin = place
        held = held[begin:]
    if held:
        yield held


def _first_place(text: str, begin: int, safe: Callable[[str, str], bool]) -> int:
    """The first one from `begin` on where the text may be cut; 0 where there is none, so far."""
    end, place, tries = len(text) - CONTEXT, begin - 1, 0
    while tries < TRIES:
        found = (text.find(white, place + 1, end) for white in " \n")
        place = min((n for n in found if n >= 0), default=-1)
        if place < 0:
            return 0
        if text[place - 1].isspace():
            continue
        if safe(text[max(0, place - CONTEXT) : place], text[place : place + CONTEXT]):
            return place
        tries += 1
    return 0

"""A text in fragments that a tokenizer of words may take one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

SIZE = 1 << 15  # characters of a fragment, about
CONTEXT = 61  # characters on each side that `safe` sees


def always(before: str, after: str) -> bool:
    return True


def fragments(
    pieces: Iterable[str], safe: Callable[[str, str], bool] = always, size: int = SIZE
) -> Iterator[str]:
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
        while len(held) - begin >= size + CONTEXT:
            # Where there is none in a fragment's length, one farther on will do.
            place = _last_place(held, begin, begin + size, safe)
            place = place or _last_place(held, begin + size, len(held) - CONTEXT, safe)
            if not place:
                break
            yield held[begin:place]
            begin = place
        held = held[begin:]
    if held:
        yield held


def _last_place(text: str, begin: int, end: int, safe: Callable[[str, str], bool]) -> int:
    """The last one between them where the text may be cut; 0 where there is none."""
    place, tries = end, 0
    while tries < 64:
        place = max(text.rfind(" ", begin + 1, place), text.rfind("\n", begin + 1, place))
        if place < 0:
            return 0
        if not text[place - 1].isspace():
            tries += 1
            if safe(text[max(0, place - CONTEXT) : place], text[place : place + CONTEXT]):
                return place
    return 0

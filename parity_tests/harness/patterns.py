"""Names with places to fill: "blocks.{i}.fc" stands for blocks.0.fc, blocks.1.fc, …

`{word}` stands for something without a dot, `**` for anything, dots included; a place that occurs
twice stands for the same text twice. `**.` may stand for nothing: "**.weight" is also `weight`
itself, "blocks.**.weight" also blocks.weight; a `**` at the end stands for something.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

_PLACE = re.compile(r"\{(\w+)\}|((?:(?<=\.)|^)\*\*\.)|(\*\*)")
_ANYTHING = "__anything"


@dataclass(frozen=True)
class Pattern:
    text: str

    @cached_property
    def places(self) -> frozenset[str]:
        return frozenset(m[1] or _ANYTHING for m in _PLACE.finditer(self.text))

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        regex, end, seen = "", 0, set()
        for place in _PLACE.finditer(self.text):
            word = place[1] or _ANYTHING
            regex += re.escape(self.text[end : place.start()])
            text = "[^.]+" if place[1] else r"(?:.+\.)?" if place[2] else ".+"
            regex += f"(?P={word})" if word in seen else f"(?P<{word}>{text})"
            seen.add(word)
            end = place.end()
        return re.compile(regex + re.escape(self.text[end:]))

    def match(self, name: str) -> dict[str, str] | None:
        """What each place stands for in `name`; None if it does not match as a whole."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        return {word: text.removesuffix(".") for word, text in found.groupdict().items()}

    def fill(self, values: Mapping[str, str]) -> str:
        def text(place: re.Match[str]) -> str:
            value = values[place[1] or _ANYTHING]
            return f"{value}." if place[2] and value else value

        return _PLACE.sub(text, self.text)

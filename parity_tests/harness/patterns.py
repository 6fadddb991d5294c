"""Names with places to fill: "blocks.{i}.fc" stands for blocks.0.fc, blocks.1.fc, …

`{word}` stands for something without a dot, `**` for anything, dots included; a place that occurs
twice stands for the same text twice.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

_PLACE = re.compile(r"\{(\w+)\}|(\*\*)")
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
            regex += (
                f"(?P={word})" if word in seen else f"(?P<{word}>{'[^.]+' if place[1] else '.+'})"
            )
            seen.add(word)
            end = place.end()
        return re.compile(regex + re.escape(self.text[end:]))

    def match(self, name: str) -> dict[str, str] | None:
        """What each place stands for in `name`; None if it does not match as a whole."""
        found = self._regex.fullmatch(name)
        return None if found is None else found.groupdict()

    def fill(self, values: Mapping[str, str]) -> str:
        return _PLACE.sub(lambda m: values[m[1] or _ANYTHING], self.text)

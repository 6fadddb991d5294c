"""Tied weights of the reference in a draft: one array of the port, or one for each name."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from parity_tests.harness.draft_code import Line, rule_code
from parity_tests.harness.draft_pairs import Drafted
from parity_tests.harness.layouts import LINEAR
from parity_tests.harness.rules import Rule

PARTED = "tied in the reference, two arrays here: training parts them"


def with_tied(pairs: list[Drafted], aliases: Mapping[str, str]) -> tuple[list[Drafted], list[Line]]:
    """The pairs that take a rule as any other, and the lines of what is tied."""
    groups: dict[str, list[Drafted]] = defaultdict(list)
    for pair in pairs:
        first = aliases.get(pair.reference, pair.reference)
        if first in aliases.values():
            groups[first].append(pair)
    kept = [p for p in pairs if aliases.get(p.reference, p.reference) not in groups]
    lines: list[Line] = []
    for first, members in groups.items():
        places = [_turned(member) for member in members]
        if len(members) > 1 and None not in places:
            lines.append(_parted(first, members, [place for place in places if place is not None]))
        else:  # one name at most has an array
            kept.append(replace(members[0], reference=first))
        for alias, name in aliases.items():
            if name == first and members[0].stack is None:
                port, how = members[0].port, members[0].fit
                rule = Rule(alias, port, how.map, alias=True)
                lines.append(Line(rule, rule_code(alias, port, how.code, "alias=True")))
    return kept, lines


def _turned(pair: Drafted) -> bool | None:
    """Whether the port holds the weight transposed; None for what is neither that nor itself."""
    if pair.stack is not None or pair.fit.map not in (None, LINEAR):
        return None
    return pair.fit.map == LINEAR


def _parted(first: str, members: list[Drafted], turned: list[bool]) -> Line:
    def to_port(w):
        return tuple(w.T if t else w for t in turned)

    def to_reference(*arrays):
        return arrays[0].T if turned[0] else arrays[0]

    ports = tuple(member.port for member in members)
    rule = Rule(first, ports, to_port=to_port, to_reference=to_reference)
    letters = ", ".join("abcdefgh"[: len(ports)])
    there = ", ".join("w.T" if t else "w" for t in turned)
    maps = f"to_port=lambda w: ({there}), to_reference=lambda {letters}: a{'.T' * turned[0]}"
    return Line(rule, rule_code(first, ports, maps), PARTED)

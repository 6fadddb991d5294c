"""Drafted pairs as rules, one for all layers that differ in numbers alone, and as Python."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from parity_tests.harness.draft_layers import kind
from parity_tests.harness.draft_pairs import Drafted
from parity_tests.harness.draft_shapes import Shape
from parity_tests.harness.patterns import Pattern
from parity_tests.harness.rules import Rule

NUMBER = re.compile(r"\d+(?=\.|$)")  # at the end of a word: that of conv1d says something else
LETTERS = "ijklmn"


class Line(NamedTuple):
    rule: Rule
    code: str  # "" for what the code of another line makes
    doubt: str = ""


@dataclass(frozen=True)
class _Template:
    """Both names of a pair with places for numbers that they share."""

    reference: str
    port: str
    places: int
    spans: tuple[tuple[int, int, str], ...]  # in the pair's own name of the reference
    spans_of_port: tuple[tuple[int, int, str], ...]
    row: str = ""  # the place that says which row of a stacked array

    @property
    def key(self) -> tuple[str, str]:
        return self.reference, self.port

    def rival(self, pair: Drafted) -> str:
        """The sentence on it, its name with the places as far as it begins as the pair's own."""
        if pair.rival is None:
            return ""
        name, of_port = pair.rival.name, pair.rival.side == "port"
        own = pair.port if of_port else pair.reference
        for begin, end, place in reversed(self.spans_of_port if of_port else self.spans):
            if name[:end] == own[:end]:
                name = name[:begin] + place + name[end:]
        if of_port and pair.stack is not None:
            name = pair.stack.stacked(name)
        return pair.rival.sentence.format(name)


def lines_of(pairs: list[Drafted], names: Iterable[str], of_port: Iterable[str]) -> list[Line]:
    """One rule for all pairs of a template, where every name that it matches is of one of them."""
    names, of_port = set(names), set(of_port)
    together: dict[Any, list[Drafted]] = defaultdict(list)
    for pair in pairs:
        for template in _templates(pair):
            together[(template.key, pair.fit.code)].append(pair)
    lines: list[Line] = []
    done: set[str] = set()
    for pair in pairs:
        if pair.reference in done:
            continue
        templates = sorted(_templates(pair), key=lambda template: template.places)
        groups = [(t, together[(t.key, pair.fit.code)]) for t in templates]
        groups = [group for group in groups if _matches(*group, names - done, of_port)]
        alone = (templates[0], [pair])
        template, members = max(groups, key=lambda group: len(group[1]), default=alone)
        done |= {member.reference for member in members}
        lines.append(_line(template, members))
    return lines


def _matches(
    template: _Template, members: list[Drafted], names: set[str], of_port: set[str]
) -> bool:
    """Whether the members are all that have these names."""
    places, place = Pattern(template.reference), template.row[1:-1]
    matched = {name: found for name in names if (found := places.match(name)) is not None}
    if place:
        rows = {(places.match(member.reference) or {})[place] for member in members}
        matched = {name: found for name, found in matched.items() if found[place] in rows}
    port = Pattern(_port_name(template, members))
    return set(matched) == {member.reference for member in members} and {
        name for name in of_port if port.match(name) is not None
    } == {m.stack.stacked(m.port) if m.stack else m.port for m in members}


def _port_name(template: _Template, members: list[Drafted]) -> str:
    stack = members[0].stack
    return stack.stacked(template.port) if stack else template.port


def _line(template: _Template, members: list[Drafted]) -> Line:
    how, stack, name = members[0].fit, members[0].stack, _port_name(template, members)
    doubts = []
    for member in members:
        of_member = next(t for t in _templates(member) if t.key == template.key)
        doubts += [how.doubt, of_member.rival(member), member.doubt]
    doubt = "; ".join(dict.fromkeys(filter(None, doubts)))
    if stack is None:
        rule = Rule(template.reference, name, how.map)
        return Line(rule, rule_code(template.reference, name, how.code), doubt)
    place = template.row[1:-1]
    found = [Pattern(template.reference).match(member.reference) or {} for member in members]
    rows = sorted({int(places[place]) for places in found})
    of_code = f"range({stack.n})" if rows == list(range(stack.n)) else str(rows)
    rule = Rule(
        template.reference, name, how.map, over={place: rows}, at=lambda **row: np.s_[row[place]]
    )
    part = f'over={{"{place}": {of_code}}}, at=lambda {place}: np.s_[{place}]'
    return Line(rule, rule_code(template.reference, name, how.code, part), doubt)


def _templates(pair: Drafted) -> Iterator[_Template]:
    """With a place for each of some numbers that stand in the same order; of a row's, always."""
    numbers, theirs = (list(NUMBER.finditer(name)) for name in (pair.reference, pair.port))
    needed = None
    if pair.stack is not None:
        ours, ports = pair.stack.reference, pair.stack.port
        needed = len(ours) + bool(ours), len(ports) + bool(ports)
    for shared in _in_order(numbers, theirs):
        if len(shared) > len(LETTERS):
            continue
        begins = [(a.start(), b.start()) for a, b in shared]
        if needed is not None and needed not in begins:
            continue
        places = [f"{{{letter}}}" for letter in LETTERS[: len(shared)]]
        ends = [(a.span(), b.span()) for a, b in shared]
        of_reference = tuple((*a, place) for (a, _), place in zip(ends, places, strict=True))
        of_port = tuple((*b, place) for (_, b), place in zip(ends, places, strict=True))
        row = places[begins.index(needed)] if needed is not None else ""
        yield _Template(
            _placed(pair.reference, of_reference),
            _placed(pair.port, of_port),
            len(places),
            of_reference,
            of_port,
            row,
        )


Numbers = list[re.Match[str]]


def _in_order(a: Numbers, b: Numbers) -> Iterator[list[tuple[re.Match[str], re.Match[str]]]]:
    """All choices of numbers of both that are equal, one by one."""
    if not a:
        yield []
        return
    yield from _in_order(a[1:], b)
    for i, other in enumerate(b):
        if a[0][0] == other[0]:
            yield from ([(a[0], other), *rest] for rest in _in_order(a[1:], b[i + 1 :]))


def _placed(name: str, spans: Iterable[tuple[int, int, str]]) -> str:
    for begin, end, place in reversed(list(spans)):
        name = name[:begin] + place + name[end:]
    return name


def rule_code(name: str, port: str | tuple[str, ...], *arguments: str) -> str:
    ports = _quoted(port) if isinstance(port, str) else f"({', '.join(map(_quoted, port))})"
    return f"Rule({', '.join([_quoted(name), ports, *filter(None, arguments)])})"


def _quoted(name: str) -> str:
    return f'"{name}"'


def open_rules(pairs: list[Drafted], names: Iterable[str], of_port: Iterable[str]) -> list[str]:
    """Of pairs with a fit that others are as likely as, all of them, to choose from."""
    rest = [pair for pair in pairs if pair.fit.others]
    found: dict[str, list[str]] = {}
    while rest:
        for line in lines_of(rest, names, of_port):
            found.setdefault(", ".join(line.rule.references), []).append(line.code)
        rest = [
            replace(pair, fit=replace(pair.fit.others[0], others=pair.fit.others[1:]))
            for pair in rest
            if pair.fit.others
        ]
    return [code for codes in found.values() for code in codes]


def python(
    lines: list[Line],
    choices: list[str],
    ignore: list[str],
    left: Mapping[str, Shape],
    left_of_port: Mapping[str, Shape],
    halves: Iterable[str],
) -> str:
    """`choices` are open, `halves` the layers of the port of which some arrays are filled."""
    body = [f"    {c},{f'  # {doubt}' if doubt else ''}" for _, c, doubt in lines if c]
    ends = [f"# open: {code}" for code in choices]
    ends += [f"# unpaired, of the reference: {end}" for end, _ in _ends(left)]
    for end, (name, shape) in _ends(left_of_port):
        owner, _, leaf = name.rpartition(".")
        zeros = f'Rule((), "{name}", constant(np.zeros({shape[0] if len(shape) == 1 else shape})))'
        pattern = Pattern(owner)
        known = kind(owner, leaf) == "bias" and any(
            pattern.match(half) is not None for half in halves
        )
        ends.append(f"# unpaired, of the port: {end}" + (f": {zeros}, or ignore_port" * known))
    text = "\n".join(body + ends)
    layouts = [f"{name}{n}D" for name in ("CONV", "CONV_TRANSPOSE") for n in (1, 2, 3)]
    ready = ("LINEAR", *layouts, "constant", "flip_groups", "heads", "rules_for", "trailing_ones")
    used = [name for name in ready if re.search(rf"\b{name}\b[(),]", text)]
    imports = ", ".join(sorted(["Bridge", "Rule", *used], key=lambda n: (not n.isupper(), n)))
    head = ["import numpy as np"] * ("np." in text) + [f"from parity_tests import {imports}", ""]
    last = f", ignore={ignore}".replace("'", '"') if ignore else ""
    return "\n".join([*head, "rules = [", *body, "]", *ends, f"bridge = Bridge(rules{last})"])


def _ends(left: Mapping[str, Shape]) -> Iterator[tuple[str, tuple[str, Shape]]]:
    """Names and shapes; one for all of a shape that differ in the number of their block alone."""
    groups: dict[Any, list[str]] = defaultdict(list)
    for name, shape in left.items():
        groups[NUMBER.sub("{i}", name, count=1), shape].append(name)
    for (template, shape), names in groups.items():
        together = len(names) > 1 and "{i}" in template
        name = template if together else names[0]
        yield f"{name} {shape}{f', {len(names)} of them' if together else ''}", (name, shape)

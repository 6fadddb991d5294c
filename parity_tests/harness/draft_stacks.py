"""Layers that a port holds stacked, one array for all of them, as scan and vmap make them."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from parity_tests.harness.draft_shapes import Shape

Pairs = Callable[[Mapping[str, Shape], Mapping[str, Shape], Sequence["Stack"]], int]


@dataclass(frozen=True)
class Stack:
    """`reference`.0, .1, … are the rows of the arrays `names`, which are inside `port`."""

    reference: str
    port: str
    n: int
    names: frozenset[str]

    @cached_property
    def prefixes(self) -> set[str]:
        """Of its arrays: layers, and what they are in."""
        return _prefixes(self.names) | {""}

    def row(self, name: str, i: int) -> str:
        """What an array's row would be called, were it an array of its own."""
        return f"{self.port}.{i}{name[len(self.port) :]}" if self.port else f"{i}.{name}"

    def stacked(self, row: str) -> str:
        """The array that a row is of, also where its number is a place, "{i}"."""
        begin = len(self.port)
        _, _, rest = row[begin + 1 if begin else 0 :].partition(".")
        return f"{self.port}.{rest}" if begin and rest else rest or self.port


def stack_of(
    name: str, stacks: Iterable[Stack], side: Literal["reference", "port"]
) -> tuple[Stack, int] | None:
    """Which row of which stack a layer, or a row by its name, belongs to."""
    for stack in stacks:
        prefix = stack.reference if side == "reference" else stack.port
        inside = re.match(rf"{re.escape(prefix)}\.(\d+)(\.|$)" if prefix else r"(\d+)(\.|$)", name)
        if inside and (side == "reference" or stack.stacked(name) in stack.prefixes):
            return stack, int(inside[1])
    return None


def unstacked(port: Mapping[str, Shape], stacks: Sequence[Stack]) -> dict[str, Shape]:
    """The port's shapes with the rows in the place of the stacked arrays."""
    shapes: dict[str, Shape] = {}
    for name, shape in port.items():
        stack = next((stack for stack in stacks if name in stack.names), None)
        if stack is None:
            shapes[name] = shape
            continue
        for i in range(stack.n):  # a block after the other, where the first of them stands
            shapes |= {stack.row(n, i): s[1:] for n, s in port.items() if n in stack.names}
    return shapes


def find_stacks(
    reference: Mapping[str, Shape], port: Mapping[str, Shape], pairs: Pairs
) -> list[Stack]:
    """Those with which more of the reference's tensors find a pair than without.

    `pairs` counts them.
    """
    found: list[Stack] = []
    most = pairs(reference, port, ())
    if most == len(reference):
        return []
    for stack in _likely(reference, port, pairs):
        if any(stack.reference == other.reference or stack.names & other.names for other in found):
            continue
        number = pairs(reference, unstacked(port, [*found, stack]), [*found, stack])
        if number > most:
            found, most = [*found, stack], number
    return found


def _likely(reference: Mapping[str, Shape], port: Mapping[str, Shape], pairs: Pairs) -> list[Stack]:
    """By how many arrays of a row find a pair in one block, less those that do not."""
    likely = []
    for container, n, block in _blocks(reference):
        for names, prefix in _with_rows(port, n).items():
            stack = Stack(container, prefix, n, names)
            rows = {stack.row(name, 0): port[name][1:] for name in port if name in names}
            number = pairs(block, rows, [stack])
            if 2 * number > len(rows):
                likely.append((2 * number - len(rows), stack))
    return [stack for _, stack in sorted(likely, key=lambda scored: -scored[0])]


def _blocks(reference: Mapping[str, Shape]) -> list[tuple[str, int, dict[str, Shape]]]:
    """Containers of layers that are numbered from 0, how many they are, and the first block."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for name in reference:
        parts = name.split(".")
        for i, part in enumerate(parts[:-1]):
            if part.isdigit():
                numbers[".".join(parts[:i])].add(int(part))
    blocks = []
    for container, found in numbers.items():
        if found == set(range(len(found))):
            first = f"{container}.0." if container else "0."
            block = {name: shape for name, shape in reference.items() if name.startswith(first)}
            blocks.append((container, len(found), block))
    return blocks


def _with_rows(port: Mapping[str, Shape], n: int) -> dict[frozenset[str], str]:
    """Arrays of n rows, all of a container or some of it, and the innermost that holds them all."""
    rows = {name for name, shape in port.items() if shape and shape[0] == n}
    found: dict[frozenset[str], str] = {}
    for prefix in sorted(_prefixes(rows) - rows | {""}, key=lambda p: (p.count("."), p)):
        inside = frozenset(name for name in rows if name.startswith(f"{prefix}." if prefix else ""))
        if inside:
            found[inside] = prefix
    return found


def _prefixes(names: Iterable[str]) -> set[str]:
    """Of dotted names, themselves included."""
    parts = [name.split(".") for name in names]
    return {".".join(p[:n]) for p in parts for n in range(1, len(p) + 1)}

"""Which tensors of the reference and of the port the rules put together, by name."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from parity_tests.harness.maps import Arrays, Function, as_tuple
from parity_tests.harness.patterns import Pattern
from parity_tests.harness.rules import BridgeError, Index, Rule, raise_if

WHOLE: Index = (...,)


@dataclass(frozen=True)
class Link:
    """Tensors of the reference, and the tensors of the port that they are; a part of each."""

    rule: Rule
    references: tuple[str, ...]
    ports: tuple[str, ...]
    part: Index = field(compare=False)

    @classmethod
    def of(cls, rule: Rule, places: Mapping[str, str]) -> "Link":
        part = WHOLE if rule.at is None else rule.at(**{k: int(places[k]) for k in rule.over})
        return cls(
            rule,
            tuple(Pattern(name).fill(places) for name in rule.references),
            tuple(Pattern(name).fill(places) for name in rule.ports),
            part,
        )

    def to_port(self, given: Sequence[NDArray[Any]]) -> Arrays:
        return self.called("to_port", self.rule.map.to_port, given, self.ports)

    def to_reference(self, values: Sequence[NDArray[Any]]) -> Arrays:
        function = self.rule.map.to_reference
        if function is None:
            raise BridgeError(f"the rule {self.rule} has no to_reference: this goes one way only")
        return self.called("to_reference", function, values, self.references)

    def undone(self, given: Sequence[Any], pieces: Sequence[Any]) -> bool:
        """Whether to_reference gives back `given`, or, of a lossy map, what makes `pieces` again.

        True of a map without a way back, which fails where one is asked for.
        """
        if self.rule.map.to_reference is None:
            return True
        back = self.to_reference(pieces)
        if self.rule.map.loses:
            back, given = self.to_port(back), pieces
        return all(map(_same, back, given))

    def called(
        self, what: str, function: Function, given: Sequence[NDArray[Any]], names: Sequence[str]
    ) -> Arrays:
        shapes = ", ".join(str(x.shape) for x in given)
        try:
            with jax.enable_x64(True):  # a function of jax.numpy rounds nothing
                results = tuple(np.asarray(x) for x in as_tuple(function(*given)))
        except Exception as error:  # whatever it is, the rule is named
            message = f"{what} of the rule {self.rule} raises {type(error).__name__}"
            raise BridgeError(f"{message} on {shapes}: {error}") from error
        if len(results) != len(names):
            raise BridgeError(
                f"{what} of the rule {self.rule} gives {len(results)} arrays for {len(names)} names"
            )
        return results


class Links:
    """Of a list of rules, of which the first that matches a name counts."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = [(_patterns(rule.references), _patterns(rule.ports), rule) for rule in rules]

    @property
    def ports(self) -> list[str]:
        """The port's names of all rules, with their places."""
        return [name for _, _, rule in self._rules for name in rule.ports]

    def of_reference(
        self, weights: Mapping[str, Any], values: Mapping[str, Any], problems: list[str]
    ) -> Iterator[Link]:
        """Of every tensor of the reference that goes somewhere; what does not is a problem."""
        links: dict[Link, None] = {}
        for name in weights:
            link = self.link(name)
            if link is None:
                problems.append(f"{name} of the reference matches no rule, nor `ignore`")
            elif link not in links:
                links[link] = None
                absent = [target for target in link.ports if target not in values]
                problems += [
                    f"{name} -> {target}, which the port does not have" for target in absent
                ]
                lacking = [part for part in link.references if part not in weights]
                problems += [f"{part}, which goes with {name}, is missing" for part in lacking]
                if link.ports and not absent and not lacking:
                    yield link
        for name, value in values.items():
            yield from (link for link in self.to(name, value.shape)[0] if not link.references)

    def complete(self, given: Mapping[str, NDArray[Any]], partly: bool) -> list[Link]:
        """Whose tensors of the port are all there; BridgeError if numbers match none or several."""
        links: dict[Link, None] = {}
        problems = []
        for target, value in given.items():
            those, used = self.to(target, value.shape)
            links |= dict.fromkeys(those)
            if (used != 1).any():
                problems.append(
                    f"of the {used.size} numbers of {target} in the port, {int((used == 0).sum())} "
                    f"match no rule and {int((used > 1).sum())} match several"
                )
        if not partly:
            problems += [
                f"{name} of the port is missing, which {link.rule} needs"
                for link in links
                for name in link.ports
                if name not in given
            ]
        raise_if(problems)
        return [link for link in links if all(name in given for name in link.ports)]

    def link(self, reference: str) -> Link | None:
        """The tensors that one of the reference goes with, and where; None if no rule matches."""
        for patterns, _, rule in self._rules:
            for pattern in patterns:
                places = pattern.match(reference)
                if places is not None and all(
                    places[word] in {str(value) for value in values}
                    for word, values in rule.over.items()
                ):
                    return Link.of(rule, places)
        return None

    def to(self, target: str, shape: tuple[int, ...]) -> tuple[list[Link], NDArray[np.int_]]:
        """The reference's tensors that make up one of the port, and how often each number is used.

        Here too the first rule counts: one whose numbers an earlier rule has used is left out.
        """
        links = []
        used = np.zeros(shape, int)
        for _, patterns, rule in self._rules:
            for pattern in patterns:
                places = pattern.match(target)
                if places is None:
                    continue
                before = used.copy()
                for values in product(*rule.over.values()):
                    more = {word: str(v) for word, v in zip(rule.over, values, strict=True)}
                    link = Link.of(rule, places | more)
                    if target not in link.ports or any(
                        self.link(name) != link for name in link.references
                    ):
                        continue  # an earlier rule takes the tensor of this name elsewhere
                    if rule.alias:
                        links.append(link)
                    elif not before[link.part].all():
                        links.append(link)
                        used[link.part] += 1
        return links, used


def _patterns(names: Iterable[str]) -> list[Pattern]:
    return [Pattern(name) for name in names]


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Of one shape and dtype, but for the rounding of a few operations."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if np.array_equal(a, b, equal_nan=True):
        return True
    if not jax.numpy.issubdtype(a.dtype, jax.numpy.floating):
        return False
    size = float(np.max(np.abs(b), initial=1.0))
    return bool(
        np.max(np.abs(a - b), initial=0.0) <= 8 * float(jax.numpy.finfo(a.dtype).eps) * size
    )

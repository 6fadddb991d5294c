"""A rule: which tensors of the reference are which of the port, and what is done to them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from parity_tests.harness.maps import Function, Map, as_map
from parity_tests.harness.patterns import Pattern

Index = Any  # what NumPy's basic indexing takes
Names = str | Sequence[str]

MOST_PROBLEMS = 8  # in one error message


class BridgeError(ValueError):
    """The rules do not pair the two models' weights one to one."""


@dataclass(
    frozen=True, eq=False
)  # a rule is itself: two of the same names may differ in a function
class Rule:
    """`reference` names become `port` names, and `axes` says what is done to the arrays.

    Names are patterns: "blocks.{i}.fc.weight" -> "blocks.{i}.fc.kernel", "**.bias" -> "**.bias".
    A tuple of names is for tensors that are one of the port together, or one that is several:
    `Rule("qkv.weight", ("q.kernel", "k.kernel", "v.kernel"), chain(split(3), LINEAR))`. `()` is
    no name: the port does without the tensor, or the reference without what a map `constant` gives.

    `axes` is a permutation of axes or a `Map`, ready-made (`heads(3, 5)`) or your own; a map's
    functions may be given here as well: `to_port`, `to_reference` and, seldom needed, `gradient`.

    Parts of one tensor of the port: `over` gives the values of a place that only the reference's
    name has, and `at` the part of the port's tensor for each of them:
    `Rule("heads.{h}.key.weight", "keys.kernel", LINEAR, over={"h": range(3)},
    at=lambda h: np.s_[:, 5 * h : 5 * h + 5])`; `at=lambda i: np.s_[i]` for stacked layers.

    `alias` is for a tied tensor that the reference lists a second time: it may be absent, and must
    agree with what another rule has put there.
    """

    reference: Names
    port: Names
    axes: Sequence[int] | Map | None = None
    over: Mapping[str, Iterable[int]] = field(default_factory=dict)
    at: Callable[..., Index] | None = None
    alias: bool = False
    to_port: Function | None = None
    to_reference: Function | None = None
    gradient: Function | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "over", {word: tuple(v) for word, v in self.over.items()})
        own = (self.to_port, self.to_reference, self.gradient)
        if any(own) and (self.to_port is None or self.axes is not None):
            raise BridgeError(f"{self}: a map is either `axes` or `to_port` with its way back")
        if not self.references and not self.ports:
            raise BridgeError("a rule has at least one name")
        places = [Pattern(name).places for name in self.references]
        places += [Pattern(name).places | set(self.over) for name in self.ports]
        if any(p != places[0] for p in places) or (self.at is None) != (not self.over):
            raise BridgeError(
                f"{self}: the places of both names must be the same, but for those in `over`, "
                "which go with `at`"
            )

    @cached_property
    def references(self) -> tuple[str, ...]:
        return (self.reference,) if isinstance(self.reference, str) else tuple(self.reference)

    @cached_property
    def ports(self) -> tuple[str, ...]:
        return (self.port,) if isinstance(self.port, str) else tuple(self.port)

    @cached_property
    def map(self) -> Map:
        if self.to_port is None:
            return as_map(self.axes)
        return Map(self.to_port, self.to_reference, self.gradient)

    def __str__(self) -> str:
        return f"{', '.join(self.references)} -> {', '.join(self.ports)}"


def raise_if(problems: Iterable[str]) -> None:
    problems = list(problems)
    if problems:
        more = len(problems) - MOST_PROBLEMS
        text = "\n  ".join(problems[:MOST_PROBLEMS]) + (f"\n  and {more} more" if more > 0 else "")
        raise BridgeError(f"the weights do not fit one to one:\n  {text}")

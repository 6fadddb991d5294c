"""What is recorded of the calls of a JAX model while it runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from parity_tests.harness.calls import Call, JaxLayer
from parity_tests.harness.marks import Levels, mark
from parity_tests.harness.taps import Running
from parity_tests.harness.tensors import to_numpy
from parity_tests.harness.trees import (
    arrays,
    is_array,
    map_arrays,
    named_arrays,
    renewed,
    with_arrays,
)
from parity_tests.harness.variables import take_apart


@dataclass(eq=False)  # JAX wants it hashed
class _Heard:
    """What a mark was told; nothing where it stood in code that was traced and never run."""

    arrays: Sequence[jax.Array] | None = None
    levels: Levels = ()

    def passed(self, arrays: Sequence[jax.Array], levels: Levels) -> None:
        if self.arrays is None:  # jax.checkpoint tells a second time
            self.arrays, self.levels = list(arrays), levels

    def returned(self, index: int, cotangent: jax.Array) -> None:
        pass


@dataclass
class _Visit:
    name: str
    kind: str = ""
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    parts: tuple[dict[str, Any], Callable[..., Any]] | None = None
    output: Any = None
    before: _Heard = field(default_factory=_Heard)
    after: _Heard = field(default_factory=_Heard)

    def call(self) -> Call | None:
        if self.before.arrays is None or self.after.arrays is None:
            return None
        layer = None
        given = list(self.before.arrays)
        if self.parts is not None:
            values, rebuild = self.parts
            own = dict(zip(values, given[len(given) - len(values) :], strict=True))
            layer = JaxLayer(self.kind, own, rebuild, self.before.levels, self.after.levels)
        args, kwargs = with_arrays((self.args, self.kwargs), [to_numpy(x) for x in given])
        output = with_arrays(self.output, [to_numpy(x) for x in self.after.arrays])
        return Call(self.name, 0, args, kwargs, output, layer)


class JaxRecording:
    def __init__(self) -> None:
        self._running = Running()
        self._visits: list[_Visit] = []

    def calls(self) -> list[Call]:
        return [call for visit in self._visits if (call := visit.call()) is not None]

    def around(
        self, name: str, layer: Any, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        given, parts = arrays((args, kwargs)), take_apart(layer)
        places = _places((args, kwargs))
        visit = _Visit(name, type(layer).__name__, places[0], places[1], parts)
        passed = mark([*given, *parts[0].values()], visit.before)
        args, kwargs = with_given(args, kwargs, passed)
        self._running.begin(name)
        try:
            output = call(*args, **kwargs)
        finally:
            self._running.end()
        return self._leave(visit, output)

    def at(self, name: str, value: Any) -> Any:
        visit = _Visit(self._running.inside(name))
        visit.before.passed((), ())
        return self._leave(visit, value)

    def _leave(self, visit: _Visit, output: Any) -> Any:
        visit.output = _places(output)
        self._visits.append(visit)
        return with_arrays(output, mark(arrays(output), visit.after))


def with_given(args: tuple, kwargs: dict[str, Any], new: Sequence[Any]) -> Any:
    """The arguments with other arrays, but for those in what a layer may change for its caller."""
    rest = iter(new)

    def replaced(tree: Any, depth: int) -> Any:
        if is_array(tree):
            return next(rest)
        if type(tree) is tuple:
            return tuple(replaced(child, depth + 1) for child in tree)
        for _ in named_arrays(tree, depth=depth):
            next(rest)
        return tree

    return replaced(args, 1), {key: replaced(value, 2) for key, value in kwargs.items()}


def _places(tree: Any) -> Any:
    """A tree of the same form, whatever is done to this one, to be filled by `with_arrays`."""
    return renewed(map_arrays(lambda _: np.empty(0), tree))

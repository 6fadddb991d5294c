"""Every call of every layer: what went in, what came out, and the layer as it was then."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import NDArray

from parity_tests.harness.copies import copy_of, snapshot
from parity_tests.harness.kinds import kind_of
from parity_tests.harness.marks import Levels, mark
from parity_tests.harness.taps import layers, listened_to, without_ears
from parity_tests.harness.tensors import to_numpy
from parity_tests.harness.trees import arrays, is_array, map_arrays, named_arrays, with_arrays
from parity_tests.harness.variables import take_apart

ROOT = "model"  # what reports call the model as a whole, whose own name is empty


@dataclass(frozen=True)
class JaxLayer:
    """A layer of a port as it was before a call, and how jax.vmap mapped it."""

    values: dict[str, Any]
    rebuild: Callable[[dict[str, Any]], Any]
    levels: Levels  # of the arrays of the arguments, then of `values`
    output_levels: Levels


@dataclass(frozen=True)
class Call:
    """One call of a layer, its arrays as NumPy; anything else as it was passed.

    Arrays inside jax.vmap have the mapped axes first. `layer` is what can be called again: a torch
    module, a JaxLayer, or None after a `tap`, which has an output only.
    """

    name: str  # dotted path; empty for the model itself
    count: int  # 0 for the first call of this layer
    args: tuple
    kwargs: dict[str, Any]
    output: Any
    layer: torch.nn.Module | JaxLayer | None

    @property
    def label(self) -> str:
        return (self.name or ROOT) + (f"#{self.count + 1}" if self.count else "")

    @property
    def inputs(self) -> list[NDArray[Any]]:
        return arrays([self.args, self.kwargs])

    @property
    def outputs(self) -> list[NDArray[Any]]:
        return arrays(self.output)


@dataclass(frozen=True)
class Record:
    """A run of a model."""

    model: Any  # after the call
    calls: tuple[Call, ...]  # in the order in which they end: a layer before what contains it
    unheard: tuple[str, ...]  # layers that were not called, or where nobody could listen


def record(model: Any, inputs: Any) -> Record:
    """Runs a copy of the model once, without a gradient.

    `inputs`: an array; a tuple of positional arguments; or a dict of keyword arguments.
    """
    model = copy_of(model)
    is_torch = kind_of(model) == "torch"
    recording = _TorchRecording() if is_torch else _JaxRecording()
    with torch.no_grad(), listened_to(model, recording) as listened:
        run(listened, map_arrays(as_torch if is_torch else jnp.asarray, inputs))
    calls = numbered_calls(recording.calls())
    heard = {call.name for call in calls}
    return Record(model, calls, tuple(sorted(layers(model).keys() - heard)))


def numbered_calls(calls: Sequence[Call]) -> tuple[Call, ...]:
    counts: Counter[str] = Counter()
    numbered = []
    for call in calls:
        fields = {**vars(call), "count": counts[call.name]}
        counts[call.name] += 1
        numbered.append(Call(**fields))
    return tuple(numbered)


def run(model: Any, inputs: Any) -> Any:
    """model(*inputs) or model(**inputs); an array alone is the one argument."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def as_torch(array: Any) -> torch.Tensor:
    """A tensor of its own."""
    if isinstance(array, torch.Tensor):
        return array.detach().clone()
    array = to_numpy(array)
    if array.dtype == jnp.bfloat16:  # NumPy's own dtypes have none
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(array)


# torch


class _TorchRecording:
    def __init__(self) -> None:
        self._begun: list[tuple[str, Any, tuple, dict[str, Any]]] = []
        self._ended: list[Call] = []

    def calls(self) -> list[Call]:
        return self._ended

    def before(self, name: str, layer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        # Copied now, because a layer may work in place.
        args, kwargs = (map_arrays(to_numpy, tree) for tree in (args, kwargs))
        self._begun.append((name, without_ears(snapshot(layer)), args, kwargs))

    def after(self, name: str, output: Any) -> Any:
        _, layer, args, kwargs = self._begun.pop()
        self._ended.append(Call(name, 0, args, kwargs, map_arrays(to_numpy, output), layer))
        return output

    def at(self, name: str, value: Any) -> Any:
        inside = [self._begun[-1][0]] if self._begun and self._begun[-1][0] else []
        name = ".".join([*inside, name])
        self._ended.append(Call(name, 0, (), {}, map_arrays(to_numpy, value), None))
        return value

    def around(self, *_: Any) -> Any:
        raise NotImplementedError("torch's hooks come before and after")


# JAX


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
            layer = JaxLayer(own, rebuild, self.before.levels, self.after.levels)
        args, kwargs = with_arrays((self.args, self.kwargs), [to_numpy(x) for x in given])
        output = with_arrays(self.output, [to_numpy(x) for x in self.after.arrays])
        return Call(self.name, 0, args, kwargs, output, layer)


class _JaxRecording:
    def __init__(self) -> None:
        self._running: list[str] = []
        self._visits: list[_Visit] = []

    def calls(self) -> list[Call]:
        return [call for visit in self._visits if (call := visit.call()) is not None]

    def around(
        self, name: str, layer: Any, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        given, parts = arrays((args, kwargs)), take_apart(layer)
        visit = _Visit(name, *_places((args, kwargs)), parts)
        passed = mark([*given, *parts[0].values()], visit.before)
        args, kwargs = with_given(args, kwargs, passed)
        self._running.append(name)
        try:
            output = call(*args, **kwargs)
        finally:
            self._running.pop()
        return self._leave(visit, output)

    def at(self, name: str, value: Any) -> Any:
        inside = self._running[-1] if self._running else ""
        visit = _Visit(f"{inside}.{name}" if inside else name)
        visit.before.passed((), ())
        return self._leave(visit, value)

    def _leave(self, visit: _Visit, output: Any) -> Any:
        visit.output = _places(output)
        self._visits.append(visit)
        return with_arrays(output, mark(arrays(output), visit.after))

    def before(self, *_: Any) -> None:
        raise NotImplementedError("JAX's calls are gone around")

    after = before


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
    return map_arrays(lambda _: np.empty(0), tree)

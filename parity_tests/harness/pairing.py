"""Which layer of the port stands for which of the reference, call by call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity_tests.harness.patterns import Pattern
from parity_tests.harness.trace import ROOT, Call
from parity_tests.harness.trees import with_arrays


@dataclass(frozen=True)
class Twin:
    """The port's layer of this name; `axes` take the reference's activations to its layout.

    `Twin("conv{i}", (0, 2, 3, 1))` for channels first against channels last. Arrays of another rank
    are left alone.
    """

    port: str
    axes: Sequence[int] | None = None

    def to_port(self, array: NDArray[Any]) -> NDArray[Any]:
        return self._permuted(array, self.axes)

    def to_reference(self, array: NDArray[Any]) -> NDArray[Any]:
        return self._permuted(array, None if self.axes is None else np.argsort(self.axes))

    def _permuted(self, array: NDArray[Any], axes: Any) -> NDArray[Any]:
        return array if axes is None or array.ndim != len(axes) else array.transpose(axes)


@dataclass(frozen=True)
class Pair:
    """A call of a layer of the reference, the call of its twin, and when in its run each ended."""

    call: Call
    position: int
    twin: Twin
    port_call: Call
    port_position: int

    @property
    def label(self) -> str:
        return (self.call.name or ROOT) + (f"#{self.call.count + 1}" if self.call.count else "")

    @property
    def arguments(self) -> tuple[tuple, dict[str, Any]]:
        return self.call.args, self.call.kwargs

    @property
    def replayable(self) -> bool:
        """Whether both take the same number of arrays, so that one's can be given to the other."""
        return len(self.call.inputs) == len(self.port_call.inputs)

    @property
    def port_arguments(self) -> tuple[tuple, dict[str, Any]]:
        """The port's own call with the reference's arrays in it."""
        arrays = [self.twin.to_port(x) for x in self.call.inputs]
        return with_arrays((self.port_call.args, self.port_call.kwargs), arrays)


def pair_calls(
    ref_calls: list[Call], port_calls: list[Call], twins: Mapping[str, Twin]
) -> list[Pair]:
    """In the reference's order; for each of its layers the first name that matches counts.

    ValueError for a name that matches no call, and for a layer called more often on one side.
    """
    positions = {(call.name, call.count): i for i, call in enumerate(port_calls)}
    pairs, used = [], set()
    for i, call in enumerate(ref_calls):
        name, twin = _twin_of(call.name, twins)
        if twin is None:
            continue
        used.add(name)
        j = positions.pop((twin.port, call.count), None)
        if j is None:
            raise ValueError(
                f"call {call.count + 1} of {call.name or ROOT} in the reference has no twin: "
                f"the port calls {twin.port or ROOT} less often, or never"
            )
        pairs.append(Pair(call, i, twin, port_calls[j], j))
    unused = sorted(set(twins) - used)
    if unused:
        raise ValueError(f"no layer that the reference calls matches {', '.join(unused)}")
    paired = {pair.twin.port for pair in pairs}
    for name, count in positions:
        if name in paired:
            raise ValueError(
                f"call {count + 1} of {name or ROOT} in the port has no twin: "
                "the reference calls it less often"
            )
    return pairs


def _twin_of(name: str, twins: Mapping[str, Twin]) -> tuple[str, Twin | None]:
    for text, twin in twins.items():
        places = Pattern(text).match(name)
        if places is not None:
            return text, Twin(Pattern(twin.port).fill(places), twin.axes)
    return "", None

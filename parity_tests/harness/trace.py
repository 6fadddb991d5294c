"""What goes into and comes out of every submodule of a torch or NNX model, by name."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from parity_tests.harness.taps import Model, run, tapped
from parity_tests.harness.tensors import to_numpy
from parity_tests.harness.trees import arrays, map_arrays

ROOT = "model"  # what reports call the model as a whole, whose own name is empty


@dataclass(frozen=True)
class Call:
    """One call of a submodule, its arrays as NumPy; anything else as it was passed."""

    name: str  # dotted path; empty for the model itself
    count: int  # 0 for the first call of this submodule
    args: tuple
    kwargs: dict[str, Any]
    output: Any

    @property
    def inputs(self) -> list[NDArray[Any]]:
        return arrays([self.args, self.kwargs])

    @property
    def outputs(self) -> list[NDArray[Any]]:
        return arrays(self.output)


def trace(
    model: Model, inputs: Any, names: Iterable[str] | Mapping[str, str] | None = None
) -> dict[str, NDArray[Any]]:
    """The output of every submodule under its dotted name, its input under "name:input".

    `names` picks some; a mapping also renames, {"mine": "blocks.0.sa"}. The model itself is called
    "model". A second call of a submodule is "name#2", a second array of a call "name[1]". `inputs`
    is the array, or the tuple of arrays, that the model takes. ValueError for a name never called.
    """
    calls = record(model, inputs)
    called = {call.name or ROOT for call in calls}
    names = called if names is None else names
    # A mapping goes from label to own name; anything else is its own label.
    pairs = names.items() if isinstance(names, Mapping) else [(name, name) for name in names]
    labels = {own: label for label, own in pairs}
    missing = sorted(labels.keys() - called)
    if missing:
        raise ValueError(f"never called, or only inside compiled code: {', '.join(missing)}")
    taps = {}
    for call in calls:
        label = labels.get(call.name or ROOT)
        if label is not None:
            label += f"#{call.count + 1}" if call.count else ""
            taps |= numbered(label, call.outputs)
            taps |= numbered(f"{label}:input", call.inputs)
    return taps


def numbered(label: str, values: Iterable[Any]) -> dict[str, Any]:
    """{"label": first, "label[1]": second, …}"""
    return {f"{label}[{i}]" if i else label: value for i, value in enumerate(values)}


def record(model: Model, inputs: Any) -> list[Call]:
    """Every call of a submodule, in the order in which they end: a layer before what contains it.

    Runs the model once, eagerly and without a gradient.
    """
    calls = []
    counts: Counter[str] = Counter()

    def tap(name: str, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        taken = [map_arrays(to_numpy, tree) for tree in (args, kwargs, output)]
        calls.append(Call(name, counts[name], *taken))
        counts[name] += 1
        return output

    with torch.no_grad(), tapped(model, tap):
        run(model, inputs)
    return calls

"""What goes into and comes out of every layer of a model, by name."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from parity_tests.harness.calls import ROOT
from parity_tests.harness.kinds import kind_of
from parity_tests.harness.record import record
from parity_tests.harness.taps import layers


def trace(
    model: Any, inputs: Any, names: Iterable[str] | Mapping[str, str] | None = None
) -> dict[str, NDArray[Any]]:
    """The output of every layer under its dotted name, its input under "name:input".

    `names` picks some; a mapping also renames, {"mine": "blocks.0.sa"}. The model itself is called
    "model". A second call of a layer is "name#2", a second array of a call "name[1]". `inputs`:
    the array, the tuple of arguments or the dict of keyword arguments that the model takes. Inside
    jax.vmap the mapped axes come first. A copy of the model runs, uncompiled.

    ValueError for a name never called, and for a model in which no layer is met; TypeError for what
    is no model.
    """
    calls = record(model, inputs).calls
    called = {call.name or ROOT for call in calls}
    if names is None and called == {ROOT} and len(layers(model)) > 1:
        raise ValueError(
            f"no layer of this {type(model).__name__} ({kind_of(model)}) is called, or only where "
            "JAX compiles it"
        )
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
    return dict(_numbered(label, values))


def _numbered(label: str, values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for i, value in enumerate(values):
        yield (f"{label}[{i}]" if i else label), value

"""Which layer of the port stands for which of the reference, when nobody says: `names="auto"`.

Layers without layers inside are aligned in the order in which they run, as two texts are: those
that are called alike, are of one kind, hold as many weights and give results of the same size are
worth most. What contains them follows from what it contains.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import permutations
from typing import Any

import numpy as np
import torch

from parity_tests.harness.calls import Call
from parity_tests.harness.compare import rms
from parity_tests.harness.pairing import Twin
from parity_tests.harness.patterns import Pattern
from parity_tests.harness.record import Record, record
from parity_tests.harness.tensors import as_tensor
from parity_tests.harness.trees import floats

# What the frameworks call the same thing.
_KINDS = {
    "dense": "linear", "lineargeneral": "linear", "densegeneral": "linear", "embed": "embedding",
    "batchnorm1d": "batchnorm", "batchnorm2d": "batchnorm", "batchnorm3d": "batchnorm",
    "conv1d": "conv", "conv2d": "conv", "conv3d": "conv", "convtranspose1d": "convtranspose",
    "convtranspose2d": "convtranspose", "convtranspose3d": "convtranspose",
}  # fmt: skip
LEAST_SCORE = 2.0  # of two layers that may stand for one another; an equal name alone is worth 3


def paired_names(
    ref_model: torch.nn.Module, port_model: Any, inputs: Any, port_inputs: Any
) -> tuple[dict[str, str | Twin], str]:
    """The names for `locate`, and the same as code to paste."""
    ref = record(ref_model, inputs)
    port = record(port_model, inputs if port_inputs is None else port_inputs)
    names = {a.name: _twin(a, b) for a, b in _pairs(ref, port)}
    rest = [call.name for call in ref.calls if call.name and call.name not in names]
    return names, _code(names, list(dict.fromkeys(rest)))


@dataclass(frozen=True)
class _Layer:
    """All calls of one layer."""

    name: str
    calls: tuple[Call, ...]
    kind: str
    n_weights: int

    @property
    def size(self) -> tuple[int, ...]:
        """Of the first result, whatever its layout."""
        found = floats(self.calls[0].output)
        return tuple(sorted(n for n in found[0].shape if n > 1)) if found else ()


def _pairs(ref: Record, port: Record) -> Iterator[tuple[_Layer, _Layer]]:
    left, right = _layers(ref), _layers(port)
    inner = [[layer for layer in side if not _has_inside(layer, side)] for side in (left, right)]
    found = list(_aligned(*inner))
    yield from found
    partner = {a.name: b.name for a, b in found}
    outer = [layer for layer in right if layer.name and _has_inside(layer, right)]
    taken: set[str] = set()
    for layer in left:
        if not layer.name or not _has_inside(layer, left):
            continue
        inside = {b for a, b in partner.items() if a.startswith(f"{layer.name}.")}
        best = max(outer, key=lambda other: _overlap(layer, other, inside, right), default=None)
        if best is None or best.name in taken or len(best.calls) != len(layer.calls):
            continue
        if _overlap(layer, best, inside, right)[0] > 0.5 and best.size == layer.size:
            taken.add(best.name)
            yield layer, best
    yield from zip(left[-1:], right[-1:], strict=True)  # the models themselves


def _overlap(
    layer: _Layer, other: _Layer, inside: set[str], right: Sequence[_Layer]
) -> tuple[float, float]:
    """How much of what is inside both is the same, and how alike they are called."""
    theirs = {
        x.name for x in right if x.name.startswith(f"{other.name}.") and not _has_inside(x, right)
    }
    union = inside | theirs
    return (len(inside & theirs) / len(union) if union else 0.0), _likeness(layer.name, other.name)


def _aligned(left: Sequence[_Layer], right: Sequence[_Layer]) -> Iterator[tuple[_Layer, _Layer]]:
    """The pairs, in order on both sides, whose scores add up to most."""
    best = np.zeros((len(left) + 1, len(right) + 1))
    scores = np.array([[_score(a, b) for b in right] for a in left]).reshape(len(left), len(right))
    for i in range(len(left)):
        for j in range(len(right)):
            here = best[i, j] + scores[i, j] if scores[i, j] >= LEAST_SCORE else 0.0
            best[i + 1, j + 1] = max(here, best[i, j + 1], best[i + 1, j])
    i, j, found = len(left), len(right), []
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            found.append((left[i], right[j]))
    return iter(reversed(found))


def _score(a: _Layer, b: _Layer) -> float:
    if a.size != b.size or len(a.calls) != len(b.calls) or (a.n_weights > 0) != (b.n_weights > 0):
        return 0.0
    same_weights = a.n_weights == b.n_weights
    return 1.5 * (a.kind == b.kind) + 1.5 * same_weights + 3 * _likeness(a.name, b.name)


def _likeness(a: str, b: str) -> float:
    """0 to 1, of the words; the numbers of layers are in their order."""
    first, second = (re.sub(r"[\d_.]+", " ", name).strip().lower() for name in (a, b))
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


def _layers(record: Record) -> list[_Layer]:
    calls: dict[str, list[Call]] = {}
    for call in record.calls:
        calls.setdefault(call.name, []).append(call)
    return [_Layer(name, tuple(found), *_kind(found[0])) for name, found in calls.items()]


def _kind(call: Call) -> tuple[str, int]:
    layer = call.layer
    if layer is None:  # a tap
        return "", 0
    if isinstance(layer, torch.nn.Module):
        name = type(layer).__name__.lower()
        return _KINDS.get(name, name), sum(p.numel() for p in layer.parameters())
    name = layer.kind.lower()
    return _KINDS.get(name, name), sum(int(np.size(v)) for v in layer.values.values())


def _has_inside(layer: _Layer, layers: Sequence[_Layer]) -> bool:
    prefix = f"{layer.name}." if layer.name else ""
    return any(other.name != layer.name and other.name.startswith(prefix) for other in layers)


def _twin(a: _Layer, b: _Layer) -> str | Twin:
    """With the axes that take the reference's result to the port's."""
    found = [floats(layer.calls[0].output) for layer in (a, b)]
    if not all(found):
        return b.name
    ref, port = found[0][0], found[1][0]
    if ref.ndim != port.ndim or ref.ndim < 3:
        return b.name
    fitting = [
        axes
        for axes in permutations(range(ref.ndim))
        if tuple(ref.shape[axis] for axis in axes) == port.shape
    ]
    if not fitting:
        return b.name
    ref, port = as_tensor(ref).values, as_tensor(port).values
    axes = min(fitting, key=lambda axes: rms(ref.transpose(axes) - port))
    return b.name if axes == tuple(range(ref.ndim)) else Twin(b.name, axes)


def _code(names: dict[str, str | Twin], rest: Sequence[str]) -> str:
    lines = ["names = {"]
    for ref, twin in _generalized(names).items():
        axes = f", axes={twin.axes}" if isinstance(twin, Twin) else ""
        port = twin.port if isinstance(twin, Twin) else twin
        text = f'Twin("{port}"{axes})' if axes else f'"{port}"'
        lines.append(f'    "{ref}": {text},')
    lines += [f"    # without a twin: {name}" for name in rest]
    return "\n".join([*lines, "}"])


def _generalized(names: dict[str, str | Twin]) -> dict[str, str | Twin]:
    """With one pattern for all layers that differ by a number, where that says the same."""
    short: dict[str, str | Twin] = {}
    for ref, twin in names.items():
        port = twin.port if isinstance(twin, Twin) else twin
        numbers = re.findall(r"\d+", ref)
        if len(numbers) == 1 and re.findall(r"\d+", port) == numbers:
            general, target = (re.sub(r"\d+", "{i}", name) for name in (ref, port))
            pattern = Pattern(general)
            alike = [name for name in names if pattern.match(name)]
            if all(_same_twin(names[n], target, pattern.match(n) or {}, twin) for n in alike):
                short[general] = Twin(target, twin.axes) if isinstance(twin, Twin) else target
                continue
        short[ref] = twin
    return short


def _same_twin(twin: str | Twin, target: str, places: dict[str, str], like: str | Twin) -> bool:
    port = twin.port if isinstance(twin, Twin) else twin
    axes = [t.axes if isinstance(t, Twin) else None for t in (twin, like)]
    return port == Pattern(target).fill(places) and axes[0] == axes[1]

"""Which layer of the port stands for which of the reference, when nobody says: `names="auto"`.

Calls of layers without layers inside are aligned in the order in which they run, as two texts are:
those that are called alike, are of one kind, hold as many weights and give results of the same size
are worth most. What contains them follows from what it contains.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import permutations

import numpy as np
import torch

from parity_tests.harness.calls import Call
from parity_tests.harness.compare import rms
from parity_tests.harness.names_code import names_code
from parity_tests.harness.pairing import Twin
from parity_tests.harness.record import Record
from parity_tests.harness.taps import layers
from parity_tests.harness.tensors import as_tensor
from parity_tests.harness.trees import floats

# What the frameworks call the same thing.
_KINDS = {
    "dense": "linear", "lineargeneral": "linear", "densegeneral": "linear", "embed": "embedding",
    "batchnorm1d": "batchnorm", "batchnorm2d": "batchnorm", "batchnorm3d": "batchnorm",
    "conv1d": "conv", "conv2d": "conv", "conv3d": "conv", "convtranspose1d": "convtranspose",
    "convtranspose2d": "convtranspose", "convtranspose3d": "convtranspose",
}  # fmt: skip
LEAST_SCORE = 2.0  # of two calls that may stand for one another; an equal name alone is worth 3


MayPair = Callable[[str, str], bool | None]


def paired_names(ref: Record, port: Record, may_pair: MayPair) -> tuple[dict[str, Twin], str]:
    """The names for `locate`, and the same as code to paste.

    `may_pair` says whether two layers hold the same weights; None if that is not known.
    """
    found: dict[str, list[tuple[_Unit, _Unit]]] = defaultdict(list)
    known = layers(ref.model).keys(), layers(port.model).keys()
    for a, b in _pairs(_units(ref), _units(port), known, may_pair):
        found[a.call.name].append((a, b))
    names = {}
    for name, pairs in found.items():
        twin = _twin(pairs, ref, port)
        if twin is not None:
            names[name] = twin
    rest = dict.fromkeys(call.name for call in ref.calls if call.name and call.name not in names)
    return names, names_code(names, list(rest))


@dataclass(frozen=True, eq=False)
class _Unit:
    """A call, and the calls of layers without layers inside that belong to it."""

    call: Call
    inside: frozenset[int]  # positions of the inmost calls in it; empty if it is one itself
    kind: str
    n_weights: int

    @property
    def size(self) -> tuple[int, ...]:
        """Of the first result, whatever its layout."""
        found = floats(self.call.output)
        return tuple(sorted(n for n in found[0].shape if n > 1)) if found else ()


def _units(record: Record) -> list[_Unit]:
    inmost: list[tuple[int, Call]] = []
    units = []
    since: dict[str, int] = defaultdict(int)  # where the call before, of the same layer, ended
    names = {call.name for call in record.calls}
    for position, call in enumerate(record.calls):
        prefix = f"{call.name}." if call.name else ""
        if any(name != call.name and name.startswith(prefix) for name in names):
            inside = frozenset(
                i for i, c in inmost if c.name.startswith(prefix) and i >= since[call.name]
            )
            since[call.name] = position
        else:
            inmost.append((position, call))
            inside = frozenset()
        units.append(_Unit(call, inside, *_kind(call)))
    return units


def _pairs(
    left: Sequence[_Unit],
    right: Sequence[_Unit],
    known: tuple[Set[str], Set[str]],
    may_pair: MayPair,
) -> Iterator[tuple[_Unit, _Unit]]:
    """`known` are the layers of both models, called or not: one of the same name is the twin."""
    partner: dict[int, int] = {}
    names = [Counter(unit.call.name for unit in side) for side in (left, right)]
    by_key = {(unit.call.name, unit.call.count): i for i, unit in enumerate(right)}
    for i, unit in enumerate(left):
        name = unit.call.name
        if name and names[0][name] == names[1][name] and may_pair(name, name) is not False:
            partner[i] = by_key[name, unit.call.count]
            yield unit, right[partner[i]]
    named, taken = set(partner), set(partner.values())
    # The others are those that the other side has no layer of the same name for.
    ours, theirs = (
        {name for name in known[k] | names[k].keys() if may_pair(name, name) is not False}
        for k in (0, 1)
    )
    inner = [
        [(i, u) for i, u in enumerate(side) if not u.inside and u.call.name not in others]
        for side, others in ((left, theirs), (right, ours))
    ]
    units = [[unit for _, unit in side] for side in inner]
    for i, j in _aligned(units[0], units[1], may_pair):
        (a, first), (b, second) = inner[0][i], inner[1][j]
        partner[a] = b
        yield first, second
    outer = [u for j, u in enumerate(right) if u.inside and u.call.name and j not in taken]
    for i, unit in enumerate(left):
        if not unit.inside or not unit.call.name or i in named:
            continue
        there = {partner[i] for i in unit.inside if i in partner}
        others = [u for u in outer if may_pair(unit.call.name, u.call.name) is not False]
        best = max(others, key=lambda other: _overlap(unit, other, there), default=None)
        if best is None or _overlap(unit, best, there)[0] <= 0.5 or best.size != unit.size:
            continue
        outer.remove(best)
        yield unit, best
    yield left[-1], right[-1]  # the models themselves


def _overlap(unit: _Unit, other: _Unit, there: set[int]) -> tuple[float, float]:
    """How much of what is inside both is the same, and how alike they are called."""
    union = there | other.inside
    shared = len(there & other.inside) / len(union) if union else 0.0
    return shared, _likeness(unit.call.name, other.call.name)


def _aligned(
    left: Sequence[_Unit], right: Sequence[_Unit], may_pair: MayPair
) -> Iterator[tuple[int, int]]:
    """The pairs, in order on both sides, whose scores add up to most."""
    best = np.zeros((len(left) + 1, len(right) + 1))
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            score = _score(a, b, may_pair)
            here = best[i, j] + score if score >= LEAST_SCORE else 0.0
            best[i + 1, j + 1] = max(here, best[i, j + 1], best[i + 1, j])
    i, j, found = len(left), len(right), []
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            found.append((i, j))
    return iter(reversed(found))


def _score(a: _Unit, b: _Unit, may_pair: MayPair) -> float:
    if a.size != b.size:
        return 0.0
    likeness = _likeness(a.call.name, b.call.name)
    if b.call.layer is None:  # a tap, whose name is all that is known of it
        return 3 * likeness + (0.5 if a.n_weights else 1.5)
    by_rules = may_pair(a.call.name, b.call.name)
    if by_rules is False or (by_rules is None and (a.n_weights > 0) != (b.n_weights > 0)):
        return 0.0
    same_weights = a.n_weights == b.n_weights
    return 3 * bool(by_rules) + 1.5 * (a.kind == b.kind) + 1.5 * same_weights + 3 * likeness


def _likeness(a: str, b: str) -> float:
    """0 to 1, of the words; the numbers of layers are in their order."""
    first, second = (re.sub(r"[\d_.]+", " ", name).strip().lower() for name in (a, b))
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


def _kind(call: Call) -> tuple[str, int]:
    layer = call.layer
    if layer is None:  # a tap
        return "", 0
    if isinstance(layer, torch.nn.Module):
        name = type(layer).__name__.lower()
        return _KINDS.get(name, name), sum(p.numel() for p in layer.parameters())
    name = layer.kind.lower()
    return _KINDS.get(name, name), sum(int(np.size(v)) for v in layer.values.values())


def _twin(pairs: Sequence[tuple[_Unit, _Unit]], ref: Record, port: Record) -> Twin | None:
    """None where the calls of a layer stand for those of several, or for some of one only."""
    first, second = pairs[0]
    name, other = first.call.name, second.call.name
    n_ref, n_port = (
        sum(call.name == n for call in side.calls) for n, side in ((name, ref), (other, port))
    )
    in_order = [(a.call.count, b.call.name, b.call.count) for a, b in pairs]
    axes = _axes(first.call, second.call)
    if n_ref == n_port and in_order == [(i, other, i) for i in range(n_ref)]:
        return Twin(other, axes)
    if n_ref == len(pairs) == 1:
        return Twin(other, axes, call=second.call.count)
    return None


def _axes(ref_call: Call, port_call: Call) -> tuple[int, ...] | None:
    """Those that take the reference's result to the port's; None where it is the same."""
    found = [floats(call.output) for call in (ref_call, port_call)]
    if not all(found):
        return None
    ref, port = found[0][0], found[1][0]
    if ref.ndim != port.ndim or ref.ndim < 3:
        return None
    fitting = [
        axes
        for axes in permutations(range(ref.ndim))
        if tuple(ref.shape[axis] for axis in axes) == port.shape
    ]
    if not fitting or ref.shape == port.shape:
        return None
    ref, port = as_tensor(ref).values, as_tensor(port).values
    return min(fitting, key=lambda axes: rms(ref.transpose(axes) - port))

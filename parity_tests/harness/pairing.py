"""Which layer of the port stands for which of the reference, call by call."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity_tests.harness.calls import ROOT, Call
from parity_tests.harness.patterns import Pattern
from parity_tests.harness.record import Record
from parity_tests.harness.trees import children

Which = int | str | Callable[[Any], Any] | None  # a part of a result; None is all of it


@dataclass(frozen=True)
class Twin:
    """The port's layer of this name, and how its calls correspond to the reference's.

    `axes` take the reference's activations to the port's layout: `Twin("conv{i}", (0, 2, 3, 1))`
    for channels first against channels last. Arrays of another rank are left alone.

    `inputs` makes the port's arguments of the reference's, where they are others: it is called as
    the reference's layer is, with arrays of JAX, and returns a tuple of arguments, or (tuple, dict
    of keywords): `inputs=lambda x, mask: (x, mask == 0)`. `axes` are for results then.

    `output` makes the reference's result of the port's: an index, a key, or a function:
    `output=0` where only the port returns its weights too.

    `call` is for one layer of the port that runs several times, as in nnx.scan, for several of the
    reference's: which call, from 0, a number or a place of the name: `Twin("blocks", call="{i}")`.
    """

    port: str
    axes: Sequence[int] | None = None
    inputs: Callable[..., Any] | None = None
    output: Which = None
    call: int | str | None = None

    def to_port(self, array: Any) -> Any:
        return _permuted(array, self.axes)

    def to_reference(self, array: Any) -> Any:
        return _permuted(array, None if self.axes is None else np.argsort(self.axes))

    def chosen(self, output: Any) -> Any:
        """The port's result in the reference's form, but for `axes`."""
        return choose(output, self.output)

    def filled(self, places: Mapping[str, str]) -> "Twin":
        call = self.call
        if isinstance(call, str):
            call = int(Pattern(call).fill(places))
        return replace(self, port=Pattern(self.port).fill(places), call=call)


def choose(output: Any, which: Which) -> Any:
    """A part of a result by position, key or attribute, or a function of it; None: all of it.

    ValueError for a part that it does not have.
    """
    if which is None:
        return output
    if callable(which):
        return which(output)
    try:
        if isinstance(which, str) and not isinstance(output, Mapping):
            return getattr(output, which)
        return output[which]
    except (LookupError, AttributeError, TypeError):
        parts = ", ".join(str(key) for key, _ in children(output)) or "no parts"
        kind = type(output).__name__
        raise ValueError(f"output={which!r}: a result is a {kind} with {parts}") from None


@dataclass(frozen=True)
class Pair:
    """A call of a layer of the reference and the call of its twin."""

    call: Call
    twin: Twin
    port_call: Call

    @property
    def label(self) -> str:
        return self.call.label


@dataclass(frozen=True)
class Pairing:
    """Pairs in the reference's order, and a sentence for each layer that has no part in one."""

    pairs: tuple[Pair, ...]
    not_paired: tuple[str, ...]


def pair_calls(ref: Record, port: Record, twins: Mapping[str, Twin], known: set[str]) -> Pairing:
    """For each layer of the reference the first name that matches counts.

    `known` are the port's layers. ValueError for a name that matches nothing on its side.
    """
    ref_calls, port_calls = _by_name(ref), _by_name(port)
    pairs, used, met, unnamed = [], set(), set(), []
    apart: dict[str, list[str]] = defaultdict(list)  # why two are no pair -> layers
    for name, calls in ref_calls.items():
        text, twin = _twin_of(name, twins)
        if twin is None:
            unnamed.append(name)
            continue
        used.add(text)
        met.add(twin.port)
        others = port_calls.get(twin.port, [])
        if isinstance(twin.call, int):
            others = others[twin.call :][:1]
        if not others and twin.port not in known | port_calls.keys():
            raise ValueError(f"{name or ROOT} -> {twin.port}: the port has no layer of that name")
        if not others and twin.port in port_calls:
            apart["not called so often in the port as `call` says"].append(name)
        elif not others:
            apart["not met in a call of its own in the port"].append(name)
        elif len(calls) != len(others):
            often = f"{_times(len(calls))} by the reference, {_times(len(others))} by the port"
            apart[f"called {often}"].append(name)
        else:
            pairs += [Pair(a, twin, b) for a, b in zip(calls, others, strict=True)]
    for name in ref.unheard:
        text, twin = _twin_of(name, twins)
        used |= {text} if twin is not None else set()
    unused = sorted(set(twins) - used)
    if unused:
        raise ValueError(f"no layer of the reference matches {', '.join(unused)}")
    apart["without a twin in the reference's names"] = unnamed
    apart["in the port, without a twin"] = [name for name in port_calls if name not in met]
    sentences = [f"{why}: {listed(found)}" for why, found in apart.items() if found]
    order = {id(call): i for i, call in enumerate(ref.calls)}
    return Pairing(tuple(sorted(pairs, key=lambda p: order[id(p.call)])), tuple(sentences))


def _by_name(record: Record) -> dict[str, list[Call]]:
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in record.calls:
        calls[call.name].append(call)
    return calls


def _twin_of(name: str, twins: Mapping[str, Twin]) -> tuple[str, Twin | None]:
    for text, twin in twins.items():
        places = Pattern(text).match(name)
        if places is not None:
            return text, twin.filled(places)
    return "", None


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")


def listed(names: Sequence[str]) -> str:
    """Layers that differ by a number only are named once: "blocks.*.fc (3), head"."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[".".join("*" if p.isdigit() else p for p in name.split("."))].append(name)
    return ", ".join(n[0] if len(n) == 1 else f"{a} ({len(n)})" for a, n in alike.items())


def _permuted(array: Any, axes: Any) -> Any:
    return array if axes is None or array.ndim != len(axes) else array.transpose(axes)

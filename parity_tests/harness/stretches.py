"""Taps in isolation: what arrives at each when the reference's values leave all the others.

A tap has no inputs of its own. What it stands at the end of, the stretch of the program since the
taps before it, is run alone all the same: both models run once more, and at every tap that a pair
has in the port, the reference's value goes on in the place of the one that came. What came is the
work of that stretch only, forward and backward.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import NDArray

from parity_tests.harness.calls import Arrays, Key, NotReplayableError, run
from parity_tests.harness.jax_listening import listened_to
from parity_tests.harness.likeness import Likeness
from parity_tests.harness.on_torch import TorchCut
from parity_tests.harness.runs import Runs, in_double
from parity_tests.harness.taps import Running
from parity_tests.harness.tensors import to_numpy
from parity_tests.harness.trees import arrays, floats, is_float, map_arrays, with_arrays
from parity_tests.harness.variables import parameters, take_apart


@dataclass(frozen=True)
class StretchGradients:
    """With respect to what was put in at the taps, by label, the model's inputs, and weights."""

    put_in: dict[str, NDArray[Any]]
    inputs: Arrays
    weights: dict[str, NDArray[Any]]


class Stretches:
    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._taps = [like for like in runs.pairs if like.is_tap and like.pair.twin.output is None]

    def arrived(self, like: Likeness) -> Arrays:
        """At a tap of the port, in the reference's layout. NotReplayableError with the reason."""
        self._require(like)
        return [to_numpy(x) for x in self._port.arrived[like.label]]

    def arrived_exactly(self, like: Likeness) -> Arrays | None:
        """At the twin of the reference's float64 copy; None without one."""
        return None if self._oracle is None else self._oracle.arrived[like.key]

    def port_gradients(
        self, like: Likeness, cotangents: Sequence[NDArray[Any]]
    ) -> StretchGradients:
        """`cotangents`: one for each real array that arrives, in the reference's layout."""
        self._require(like)
        given = {
            label: [jnp.zeros_like(x) for x in reals] for label, reals in self._port.reals.items()
        }
        given[like.label] = [
            jnp.asarray(c, x.dtype)
            for c, x in zip(cotangents, self._port.reals[like.label], strict=True)
        ]
        of_weights, of_inputs, of_put = self._port.vjp(given)
        put_in = {}
        for tap in self._taps:
            reals = [to_numpy(x) for x in of_put[tap.label]]
            put_in |= _by_label(tap, tap.pair.twin, tap.results.in_order_of_reference(reals))
        return StretchGradients(
            put_in,
            [to_numpy(x) for x in of_inputs],
            {name: to_numpy(x) for name, x in of_weights.items()},
        )

    def ref_gradients(self, like: Likeness, cotangents: Arrays, *, exact: bool) -> StretchGradients:
        """The same of the reference, or of its float64 copy."""
        cut = self._oracle if exact else self._ref
        assert cut is not None
        all_reals = like.results.among_all(cotangents)
        of_put, of_inputs, of_weights = cut.gradients(
            like.key, in_double(all_reals) if exact else all_reals
        )
        put_in = {}
        for tap in self._taps:
            put_in |= _by_label(tap, None, tap.results.cotangents_of(of_put[tap.key]))
        return StretchGradients(put_in, of_inputs, of_weights)

    def _require(self, like: Likeness) -> None:
        if like not in self._taps:
            raise NotReplayableError("what it stands for in the port is a tap, in another form")
        if like.label not in self._port.arrived:
            raise NotReplayableError("a tap inside jax.vmap, where no value can be put in")

    @cached_property
    def _ref(self) -> TorchCut:
        puts = {tap.key: tap.pair.call.outputs for tap in self._taps}
        return TorchCut(self._runs.ref, self._runs.inputs, puts)

    @cached_property
    def _oracle(self) -> TorchCut | None:
        if self._runs.oracle is None:
            return None
        puts = {tap.key: in_double(tap.pair.call.outputs) for tap in self._taps}
        return TorchCut(self._runs.oracle, in_double(self._runs.inputs), puts)

    @cached_property
    def _port(self) -> "_PortCut":
        return _port_cut(self._runs.port, self._runs.port_inputs, self._taps)


@dataclass(frozen=True)
class _PortCut:
    arrived: dict[str, list[Any]]  # by label, as compared
    reals: dict[str, list[Any]]
    vjp: Callable[[dict[str, list[Any]]], Any]


def _port_cut(model: Any, inputs: Any, taps: Sequence[Likeness]) -> _PortCut:
    values, rebuild = take_apart(model)
    names = parameters(model)
    weights = {name: value for name, value in values.items() if name in names}
    inputs = map_arrays(jnp.asarray, inputs)
    puts = {tap.label: [jnp.asarray(x) for x in tap.results.put_into_port()] for tap in taps}
    labels = {tap.port_key: tap for tap in taps}

    def arrived(weights: dict[str, Any], given: list[Any], real_puts: dict[str, list[Any]]) -> Any:
        rest = iter(given)
        tree = map_arrays(lambda x: next(rest) if is_float(x) else x, inputs)
        put = {}
        for label, found in puts.items():
            reals = iter(real_puts[label])
            put[label] = [next(reals) if is_float(x) else x for x in found]
        ear = _Putting({key: put[tap.label] for key, tap in labels.items()})
        with listened_to(rebuild({**values, **weights}), ear) as listened:
            run(listened, tree)
        came = {labels[key]: tree for key, tree in ear.arrived.items()}
        everything = {tap.label: tap.results.adapted(tree) for tap, tree in came.items()}
        return {
            tap.label: tap.results.adapted_reals(tree) for tap, tree in came.items()
        }, everything

    real_puts = {label: floats(found) for label, found in puts.items()}
    with jax.disable_jit():
        reals, vjp, everything = jax.vjp(arrived, weights, floats(inputs), real_puts, has_aux=True)
    return _PortCut(everything, reals, vjp)


class _Putting:
    """Puts values in at taps; keeps what came."""

    def __init__(self, puts: dict[Key, list[Any]]) -> None:
        self._puts = puts
        self._running = Running()
        self._counts: Counter[str] = Counter()
        self.arrived: dict[Key, Any] = {}

    def around(
        self, name: str, layer: Any, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        self._counts[name] += 1
        self._running.begin(name)
        try:
            return call(*args, **kwargs)
        finally:
            self._running.end()

    def at(self, name: str, value: Any) -> Any:
        name = self._running.inside(name)
        key = name, self._counts[name]
        self._counts[name] += 1
        put, came = self._puts.get(key), arrays(value)
        if put is None or [x.shape for x in put] != [x.shape for x in came]:
            return value
        self.arrived[key] = value
        return with_arrays(value, put)


def _by_label(tap: Likeness, twin: Any, reals: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    turned = [x if twin is None else twin.to_reference(x) for x in reals]
    return {f"{tap.label}" + (f"[{i}]" if i else ""): x for i, x in enumerate(turned)}

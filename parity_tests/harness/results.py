"""Of two calls that stand for one another: which of their results are compared, in what layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity_tests.harness.calls import Arrays
from parity_tests.harness.matching import Match, Matching, match_arrays
from parity_tests.harness.pairing import Pair, Which, choose
from parity_tests.harness.tensors import to_numpy
from parity_tests.harness.trees import arrays, floats, is_float, map_arrays, named_arrays

NamedArrays = list[tuple[str, Any]]


@dataclass(frozen=True, eq=False)
class Results:
    pair: Pair
    part: Which  # of both results, before the twin's own choice of the port's
    matching: Matching
    ref: NamedArrays
    port: NamedArrays  # in the reference's layout

    @classmethod
    def of(cls, pair: Pair, part: Which) -> "Results":
        twin = pair.twin
        ref = list(named_arrays(_part_of(pair.call.output, part)))
        of_port = named_arrays(twin.chosen(_part_of(pair.port_call.output, part)))
        port = [(name, twin.to_reference(np.asarray(array))) for name, array in of_port]
        return cls(pair, part, match_arrays(ref, port, shapes_may_differ=True), ref, port)

    def of_reference(self, found: Arrays) -> Arrays:
        """Of all arrays of the reference's result, those that are compared."""
        places = self._places_in_reference()
        return [found[places[match.ref]] for match in self.matching.matches]

    def of_port(self) -> Arrays:
        return [self.port[match.port][1] for match in self.matching.matches]

    def adapted(self, result: Any) -> list[Any]:
        """Of a result of the port's layer, those that are compared, in the reference's layout."""
        return self._picked(result, self.matching.matches)

    def adapted_reals(self, result: Any) -> list[Any]:
        """Those of them that have a gradient on both sides."""
        return self._picked(result, self._reals())

    def _picked(self, result: Any, matches: Sequence[Match]) -> list[Any]:
        twin = self.pair.twin
        found = arrays(twin.chosen(_part_of(result, self.part)))
        return [twin.to_reference(found[match.port]) for match in matches]

    def _reals(self) -> list[Match]:
        matches = []
        for match in self.matching.matches:
            ref, port = self.ref[match.ref][1], self.port[match.port][1]
            if is_float(ref) and is_float(port) and ref.shape == port.shape:
                matches.append(match)
        return matches

    def _places_in_reference(self) -> list[int]:
        places = {id(array): i for i, array in enumerate(arrays(self.pair.call.output))}
        if not all(id(array) in places for _, array in self.ref):
            raise ValueError("`output` must be a part of the reference's result as it is")
        return [places[id(array)] for _, array in self.ref]

    def put_into_port(self) -> Arrays:
        """All arrays of the port's result, with the reference's in the place of those compared.

        Of results that the twin does not change but for their axes.
        """
        found = list(arrays(self.pair.port_call.output))
        for match in self.matching.matches:
            value = self.pair.twin.to_port(self.ref[match.ref][1])
            if value.shape == found[match.port].shape:
                found[match.port] = value
        return found

    def in_order_of_reference(self, of_port_reals: Arrays) -> Arrays:
        """Of one array for each real one of the port's result, those of `adapted_reals`."""
        found = arrays(self.pair.port_call.output)
        positions = [i for i, array in enumerate(found) if is_float(array)]
        return [of_port_reals[positions.index(match.port)] for match in self._reals()]

    # Cotangents: `all_reals` has one for each real array of the reference's result, in order.

    def random_cotangents(self, seed: int) -> Arrays:
        """One for each of `adapted_reals`."""
        random = np.random.default_rng(seed)
        found = [self.ref[match.ref][1] for match in self._reals()]
        return [random.normal(size=y.shape).astype(y.dtype) for y in found]

    def cotangents_of(self, all_reals: Arrays) -> Arrays:
        """For `adapted_reals`."""
        return [all_reals[i] for i in self._places_among_reals()]

    def among_all(self, of_reals: Arrays) -> Arrays:
        """The inverse: zeros for what is not compared."""
        everything = [np.zeros_like(x) for x in floats(self.pair.call.output)]
        for i, cotangent in zip(self._places_among_reals(), of_reals, strict=True):
            everything[i] = cotangent
        return everything

    def _places_among_reals(self) -> list[int]:
        places, found = self._places_in_reference(), arrays(self.pair.call.output)
        reals = [i for i, array in enumerate(found) if is_float(array)]
        return [reals.index(places[match.ref]) for match in self._reals()]

    def both_cotangents(self, of_ref: Arrays, of_port: Arrays) -> tuple[Arrays, Arrays]:
        """`of_ref` as of `cotangents_of`, `of_port` of all real arrays of the port's result.

        In the reference's layout; in the port's where its result is changed by a function, which
        then carries the reference's cotangents there.
        """
        reals = floats(self.pair.port_call.output)
        places = {id(array): i for i, array in enumerate(reals)}
        chosen = arrays(self.pair.twin.chosen(_part_of(self.pair.port_call.output, self.part)))
        picked = [chosen[match.port] for match in self._reals()]
        if all(id(array) in places for array in picked):
            to_reference = self.pair.twin.to_reference
            return list(of_ref), [to_reference(of_port[places[id(array)]]) for array in picked]

        def adapted(reals: list[Any]) -> list[Any]:
            rest = iter(reals)
            output = self.pair.port_call.output
            return self.adapted_reals(
                map_arrays(lambda x: next(rest) if is_float(x) else x, output)
            )

        primals, vjp = jax.vjp(adapted, [jnp.asarray(x) for x in reals])
        (carried,) = vjp([jnp.asarray(c, y.dtype) for c, y in zip(of_ref, primals, strict=True)])
        return [to_numpy(x) for x in carried], list(of_port)


def _part_of(output: Any, part: Which) -> Any:
    """A part of both sides' results; a side that gives one array gives that."""
    return output if len(arrays(output)) == 1 else choose(output, part)

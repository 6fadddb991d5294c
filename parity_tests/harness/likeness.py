"""Two calls that stand for one another: which of their arrays are the same, and in what layout."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from parity_tests.harness.calls import Call
from parity_tests.harness.matching import Match, Matching, match_arrays
from parity_tests.harness.pairing import Pair, choose
from parity_tests.harness.tensors import to_numpy
from parity_tests.harness.trees import (
    arrays,
    floats,
    is_float,
    map_arrays,
    named_arrays,
    with_arrays,
)

Which = int | str | Callable[[Any], Any] | None
Array = NDArray[Any]
Named = list[tuple[str, Array]]


@dataclass(frozen=True, eq=False)
class Likeness:
    """A pair of calls with what corresponds in them."""

    pair: Pair
    part: Which  # of both results, before the twin's own choice of the port's
    inputs: Matching
    outputs: Matching
    ref_inputs: Named
    ref_outputs: Named
    port_inputs: Named
    port_outputs: Named  # in the reference's layout

    @classmethod
    def of(cls, pair: Pair, part: Which) -> "Likeness":
        twin = pair.twin
        ref_inputs, port_inputs = _arguments(pair.call), _arguments(pair.port_call)
        ref_outputs = list(named_arrays(_part_of(pair.call.output, part)))
        of_port = named_arrays(twin.chosen(_part_of(pair.port_call.output, part)))
        port_outputs = [(name, twin.to_reference(np.asarray(array))) for name, array in of_port]
        turned = [(name, twin.to_reference(array)) for name, array in port_inputs]
        return cls(
            pair,
            part,
            match_arrays(ref_inputs, turned, shapes_may_differ=False),
            match_arrays(ref_outputs, port_outputs, shapes_may_differ=True),
            ref_inputs,
            ref_outputs,
            port_inputs,
            port_outputs,
        )

    @property
    def name(self) -> str:
        return self.pair.call.name

    @property
    def label(self) -> str:
        return self.pair.call.label

    @property
    def is_tap(self) -> bool:
        """Whether the port has a tap there, which has no inputs."""
        return self.pair.port_call.layer is None

    @property
    def key(self) -> tuple[str, int]:
        return self.pair.call.name, self.pair.call.count

    @property
    def port_key(self) -> tuple[str, int]:
        return self.pair.port_call.name, self.pair.port_call.count

    def left_out(self) -> Iterator[str]:
        """A sentence for what of the results is compared with nothing."""
        if self.pair.twin.inputs is not None and not all(self._reached):
            yield f"{self.label}: gradients of inputs of which the adapter makes no real array"
        for whose, left, outputs in (
            ("the reference", self.outputs.ref_left, self.ref_outputs),
            ("the port", self.outputs.port_left, self.port_outputs),
        ):
            if left:
                what = ", ".join(_described(*outputs[i]) for i in left)
                yield f"{self.label}: of its results {what}, which only {whose} has"

    def doubt(self) -> str:
        """Why the port's layer is not known to get what the reference's does; "" if it is."""
        if self.pair.twin.inputs is not None or self.inputs.sure or not self.name:
            return ""
        unsure = [m.port for m in self.inputs.matches if not m.sure]
        what = ", ".join(
            _described(*self.port_inputs[i]) for i in (*self.inputs.port_left, *unsure)
        )
        return f"its {what} in the port is not known to be the reference's; see Twin(inputs=...)"

    # Results

    def ref_results(self, found: Sequence[Array]) -> list[Array]:
        """Of all arrays of the reference's result, those that are compared."""
        places = self._places_in_reference()
        return [found[places[match.ref]] for match in self.outputs.matches]

    def port_results(self) -> list[Array]:
        return [self.port_outputs[match.port][1] for match in self.outputs.matches]

    def adapted(self, result: Any) -> list[Any]:
        """Of a result of the port's layer, those that are compared, in the reference's layout."""
        return self._picked(result, self.outputs.matches)

    def adapted_reals(self, result: Any) -> list[Any]:
        """Those of them that have a gradient on both sides."""
        return self._picked(result, self._reals())

    def _picked(self, result: Any, matches: Sequence[Match]) -> list[Any]:
        twin = self.pair.twin
        found = arrays(twin.chosen(_part_of(result, self.part)))
        return [twin.to_reference(found[match.port]) for match in matches]

    def _reals(self) -> list[Match]:
        matches = []
        for match in self.outputs.matches:
            ref, port = self.ref_outputs[match.ref][1], self.port_outputs[match.port][1]
            if is_float(ref) and is_float(port) and ref.shape == port.shape:
                matches.append(match)
        return matches

    def _places_in_reference(self) -> list[int]:
        places = {id(array): i for i, array in enumerate(arrays(self.pair.call.output))}
        if not all(id(array) in places for _, array in self.ref_outputs):
            raise ValueError("`output` must be a part of the reference's result as it is")
        return [places[id(array)] for _, array in self.ref_outputs]

    def put_into_port(self) -> list[Array]:
        """All arrays of the port's result, with the reference's in the place of those compared.

        Of results that the twin does not change but for their axes.
        """
        found = list(arrays(self.pair.port_call.output))
        for match in self.outputs.matches:
            value = self.pair.twin.to_port(self.ref_outputs[match.ref][1])
            if value.shape == found[match.port].shape:
                found[match.port] = value
        return found

    def in_order_of_reference(self, of_port_reals: Sequence[Array]) -> list[Array]:
        """Of one array for each real one of the port's result, those of `adapted_reals`."""
        found = arrays(self.pair.port_call.output)
        positions = [i for i, array in enumerate(found) if is_float(array)]
        return [of_port_reals[positions.index(match.port)] for match in self._reals()]

    # Cotangents: `all_reals` has one for each real array of the reference's result, in order.

    def random_cotangents(self, seed: int) -> list[Array]:
        """One for each of `adapted_reals`."""
        random = np.random.default_rng(seed)
        found = [self.ref_outputs[match.ref][1] for match in self._reals()]
        return [random.normal(size=y.shape).astype(y.dtype) for y in found]

    def cotangents_of(self, all_reals: Sequence[Array]) -> list[Array]:
        """For `adapted_reals`."""
        return [all_reals[i] for i in self._places_among_reals()]

    def among_all(self, of_reals: Sequence[Array]) -> list[Array]:
        """The inverse: zeros for what is not compared."""
        everything = [np.zeros_like(x) for x in floats(self.pair.call.output)]
        for i, cotangent in zip(self._places_among_reals(), of_reals, strict=True):
            everything[i] = cotangent
        return everything

    def _places_among_reals(self) -> list[int]:
        places, found = self._places_in_reference(), arrays(self.pair.call.output)
        reals = [i for i, array in enumerate(found) if is_float(array)]
        return [reals.index(places[match.ref]) for match in self._reals()]

    def both_cotangents(
        self, of_ref: Sequence[Array], of_port: Sequence[Array]
    ) -> tuple[list[Array], list[Array]]:
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

    # Arguments

    def given(self) -> list[Array]:
        """The reference's arrays of which `arguments` makes those of the port's layer."""
        if self.pair.twin.inputs is not None:
            return [array for _, array in self.ref_inputs]
        return [self.ref_inputs[match.ref][1] for match in self.inputs.matches]

    def ref_given(self, call: Call | None = None) -> list[Array]:
        """Of the arguments of the reference's call, or its oracle's, those that the port has."""
        found = self.ref_inputs if call is None else _arguments(call)
        return [found[match.ref][1] for match in self._as_given()]

    def port_given(self) -> list[Array]:
        """The same as the port has them, in the reference's layout."""
        turn = self.pair.twin.to_reference
        return [turn(self.port_inputs[match.port][1]) for match in self._as_given()]

    def _as_given(self) -> Sequence[Match]:
        """Without those that an adapter makes: they are not the same arrays."""
        return () if self.pair.twin.inputs is not None else self.inputs.matches

    def given_gradients(self, of_ref_inputs: Sequence[Array]) -> list[Array]:
        """Of the gradients of the reference's real inputs, those of the real ones of `given`."""
        positions = [i for i, (_, x) in enumerate(self.ref_inputs) if is_float(x)]
        if self.pair.twin.inputs is not None:
            return self.with_gradient(of_ref_inputs)
        refs = [match.ref for match in self.inputs.matches]
        return [of_ref_inputs[positions.index(i)] for i in refs if i in positions]

    def with_gradient(self, of_reals: Sequence[Array]) -> list[Array]:
        """Of one gradient for each real array of `given`, those that can be the other side's.

        An adapter that makes a bool of a mask of 0 and -inf has no gradient to it.
        """
        if self.pair.twin.inputs is None:
            return list(of_reals)
        return [x for x, reached in zip(of_reals, self._reached, strict=True) if reached]

    @cached_property
    def _reached(self) -> list[bool]:
        """Which of the real arrays of `given` an adapter passes on as real ones."""
        given = self.given()

        def passed(reals: list[Any]) -> list[Any]:
            rest = iter(reals)
            return floats(self.arguments([next(rest) if is_float(x) else x for x in given]))

        made, vjp = jax.vjp(passed, [jnp.asarray(x) for x in given if is_float(x)])
        (gradients,) = vjp([jnp.ones_like(x) for x in made])
        return [bool(jnp.any(gradient != 0)) for gradient in gradients]

    def own_gradients(self, of_port_inputs: Sequence[Array]) -> list[Array]:
        """Of the gradients of the port's real inputs, those of `given`, in their layout."""
        positions = [i for i, (_, x) in enumerate(self.port_inputs) if is_float(x)]
        found = [m.port for m in self.inputs.matches if m.port in positions]
        return [self.pair.twin.to_reference(of_port_inputs[positions.index(j)]) for j in found]

    def arguments(self, given: Sequence[Any]) -> tuple[tuple, dict[str, Any]]:
        """Of the port's layer, made of the reference's arrays, or of the port's in their layout.

        What the reference does not have is as the port's own call had it.
        """
        call, other, twin = self.pair.call, self.pair.port_call, self.pair.twin
        if twin.inputs is not None:
            args, kwargs = with_arrays((call.args, call.kwargs), given)
            made = twin.inputs(*args, **kwargs)
            if isinstance(made, tuple) and [type(part) for part in made] == [tuple, dict]:
                return made
            return (made if isinstance(made, tuple) else (made,)), {}
        own = [jnp.asarray(array) for _, array in self.port_inputs]
        for match, array in zip(self.inputs.matches, given, strict=True):
            array = twin.to_port(array)
            # Of integers and truths the width is the framework's affair.
            own[match.port] = array if is_float(array) else array.astype(own[match.port].dtype)
        return with_arrays((other.args, other.kwargs), own)


def _arguments(call: Call) -> Named:
    """Keywords by name, positions by number."""
    return [*named_arrays(call.args), *named_arrays(call.kwargs)]


def _part_of(output: Any, part: Which) -> Any:
    """A part of both sides' results; a side that gives one array gives that."""
    return output if len(arrays(output)) == 1 else choose(output, part)


def _described(name: str, array: Array) -> str:
    shape = "×".join(map(str, array.shape)) or "scalar"
    named = "" if not name or name.replace(".", "").isdigit() else f"{name} "
    return f"{named}[{shape}] {array.dtype}"

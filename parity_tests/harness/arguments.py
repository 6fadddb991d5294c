"""Of two calls that stand for one another: the port's arguments, made of the reference's."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from parity_tests.harness.calls import Arrays, Call
from parity_tests.harness.matching import Match, Matching, match_arrays
from parity_tests.harness.pairing import Pair
from parity_tests.harness.trees import floats, is_float, named_arrays, with_arrays

NamedArrays = list[tuple[str, Any]]


@dataclass(frozen=True, eq=False)
class Arguments:
    pair: Pair
    matching: Matching
    ref: NamedArrays
    port: NamedArrays

    @classmethod
    def of(cls, pair: Pair) -> "Arguments":
        ref, port = named_arguments(pair.call), named_arguments(pair.port_call)
        turned = [(name, pair.twin.to_reference(array)) for name, array in port]
        return cls(pair, match_arrays(ref, turned, shapes_may_differ=False), ref, port)

    @property
    def all_reached(self) -> bool:
        """Whether an adapter, if there is one, passes on every real array as one."""
        return self.pair.twin.inputs is None or all(self._reached)

    def given(self) -> Arrays:
        """The reference's arrays of which `made` makes those of the port's layer."""
        if self.pair.twin.inputs is not None:
            return [array for _, array in self.ref]
        return [self.ref[match.ref][1] for match in self.matching.matches]

    def of_reference(self, call: Call | None = None) -> Arrays:
        """Of the arguments of the reference's call, or its oracle's, those that the port has."""
        found = self.ref if call is None else named_arguments(call)
        return [found[match.ref][1] for match in self._as_given()]

    def of_port(self) -> Arrays:
        """The same as the port has them, in the reference's layout."""
        turn = self.pair.twin.to_reference
        return [turn(self.port[match.port][1]) for match in self._as_given()]

    def _as_given(self) -> Sequence[Match]:
        """Without those that an adapter makes: they are not the same arrays."""
        return () if self.pair.twin.inputs is not None else self.matching.matches

    def given_gradients(self, of_ref_inputs: Arrays) -> Arrays:
        """Of the gradients of the reference's real inputs, those of the real ones of `given`."""
        positions = [i for i, (_, x) in enumerate(self.ref) if is_float(x)]
        if self.pair.twin.inputs is not None:
            return self.with_gradient(of_ref_inputs)
        refs = [match.ref for match in self.matching.matches]
        return [of_ref_inputs[positions.index(i)] for i in refs if i in positions]

    def with_gradient(self, of_reals: Arrays) -> Arrays:
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
            return floats(self.made([next(rest) if is_float(x) else x for x in given]))

        made, vjp = jax.vjp(passed, [jnp.asarray(x) for x in given if is_float(x)])
        (gradients,) = vjp([jnp.ones_like(x) for x in made])
        return [bool(jnp.any(gradient != 0)) for gradient in gradients]

    def own_gradients(self, of_port_inputs: Arrays) -> Arrays:
        """Of the gradients of the port's real inputs, those of `given`, in their layout."""
        positions = [i for i, (_, x) in enumerate(self.port) if is_float(x)]
        found = [m.port for m in self.matching.matches if m.port in positions]
        return [self.pair.twin.to_reference(of_port_inputs[positions.index(j)]) for j in found]

    def made(self, given: Sequence[Any]) -> tuple[tuple, dict[str, Any]]:
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
        own = [jnp.asarray(array) for _, array in self.port]
        for match, array in zip(self.matching.matches, given, strict=True):
            array = twin.to_port(array)
            # Of integers and truths the width is the framework's affair.
            own[match.port] = array if is_float(array) else array.astype(own[match.port].dtype)
        return with_arrays((other.args, other.kwargs), own)


def named_arguments(call: Call) -> NamedArrays:
    """Keywords by name, positions by number."""
    return [*named_arrays(call.args), *named_arrays(call.kwargs)]

"""The port: one of its layers alone, and the whole of it backward."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import NDArray

from parity_tests.harness.calls import (
    Arrays,
    Call,
    Gradients,
    JaxLayer,
    Key,
    NotReplayableError,
    run,
)
from parity_tests.harness.jax_listening import listened_to
from parity_tests.harness.marks import Levels, mark
from parity_tests.harness.taps import Running
from parity_tests.harness.tensors import to_numpy
from parity_tests.harness.trees import arrays, floats, is_float, map_arrays, renewed, with_arrays
from parity_tests.harness.variables import parameters, take_apart

Adapt = Callable[[Any], Sequence[Any]]  # a call's result -> the arrays that are compared


class PortLayer:
    """A layer of the port, to be called again as it was at one of its calls."""

    def __init__(self, call: Call) -> None:
        if call.layer is None:
            raise NotReplayableError("a tap has no inputs")
        assert isinstance(call.layer, JaxLayer)
        self._call, self._layer = call, call.layer
        levels, after = self._layer.levels, self._layer.output_levels
        if len(levels) != len(after):
            raise NotReplayableError("jax.vmap maps what it closes over")

    def outputs(
        self, arguments: Callable[[Sequence[Any]], Any], given: Any, adapt: Adapt
    ) -> Arrays:
        """On the arguments that are made of `given`, a list of arrays."""
        values = dict(self._layer.values)
        with jax.disable_jit():
            result = self._run(values, arguments([jnp.asarray(x) for x in given]))
            return [to_numpy(x) for x in adapt(result)]

    def gradients(
        self,
        arguments: Callable[[Sequence[Any]], Any],
        given: Sequence[Any],
        adapt: Adapt,
        cotangents: Sequence[NDArray[Any]],
    ) -> Gradients:
        """With respect to the floating-point ones of `given`, and to the weights.

        `cotangents`: one for each floating-point array that `adapt` gives.
        """
        arrays_given = [jnp.asarray(x) for x in given]
        weights = self._weights()
        fixed = {n: v for n, v in self._layer.values.items() if n not in weights}

        def outputs(weights: dict[str, Any], inputs: list[Any]) -> list[Any]:
            remaining = iter(inputs)
            all_given = [next(remaining) if is_float(x) else x for x in arrays_given]
            result = self._run({**fixed, **weights}, arguments(all_given))
            return [x for x in adapt(result) if is_float(x)]

        with jax.disable_jit():
            primals, vjp = jax.vjp(outputs, weights, floats(arrays_given))
            of_weights, of_inputs = vjp(_like(cotangents, primals))
        return Gradients(
            [to_numpy(x) for x in of_inputs],
            {name: to_numpy(gradient) for name, gradient in of_weights.items()},
        )

    def _weights(self) -> dict[str, Any]:
        values = self._layer.values
        names = parameters(self._layer.rebuild(values))
        return {name: values[name] for name in values if name in names}

    def _run(self, values: dict[str, Any], arguments: tuple[tuple, dict[str, Any]]) -> Any:
        names = list(self._layer.values)
        if not self._layer.levels:
            args, kwargs = renewed(arguments)
            return self._layer.rebuild(values)(*args, **kwargs)

        def flat(given: list[Any], weights: list[Any]) -> list[Any]:
            args, kwargs = renewed(with_arrays(arguments, given))
            layer = self._layer.rebuild(dict(zip(names, weights, strict=True)))
            return arrays(layer(*args, **kwargs))

        function: Callable[..., list[Any]] = flat
        given = arrays(arguments)
        for mapped, mapped_after in zip(self._layer.levels, self._layer.output_levels, strict=True):
            if len(mapped) != len(given) + len(names):
                raise NotReplayableError(
                    "jax.vmap maps it, and its arguments are of another number"
                )
            axes = [0 if is_mapped else None for is_mapped in mapped]
            function = jax.vmap(
                function,
                in_axes=(axes[: len(given)], axes[len(given) :]),
                out_axes=[0 if is_mapped else None for is_mapped in mapped_after],
            )
        return with_arrays(self._call.output, function(given, [values[n] for n in names]))


@dataclass(frozen=True)
class Backward:
    """A run of the whole port backward: of each call's outputs and inputs, and of the whole."""

    outputs: dict[Key, Arrays]  # as many as the call's floating-point outputs
    whole: Gradients


def port_backward(
    model: Any, inputs: Any, adapt: Adapt, cotangents: Sequence[NDArray[Any]]
) -> Backward:
    """`cotangents`: one for each floating-point array that `adapt` makes of the model's result."""
    values, rebuild = take_apart(model)
    names = parameters(model)
    weights = {name: value for name, value in values.items() if name in names}
    inputs = map_arrays(jnp.asarray, inputs)
    ears: list[_Cotangents] = []

    def outputs(weights: dict[str, Any], given: list[Any], variable: Any) -> list[Any]:
        remaining = iter(given)
        tree = map_arrays(lambda x: next(remaining) if is_float(x) else x, inputs)
        ear = _Cotangents(variable)
        ears.append(ear)
        with listened_to(rebuild({**values, **weights}), ear) as listened:
            return [x for x in adapt(run(listened, tree)) if is_float(x)]

    with jax.disable_jit():
        primals, vjp = jax.vjp(outputs, weights, floats(inputs), jnp.zeros(()))
        of_weights, of_inputs, _ = vjp(_like(cotangents, primals))
    return Backward(
        ears[-1].cotangents(),
        Gradients(
            [to_numpy(x) for x in of_inputs],
            {name: to_numpy(gradient) for name, gradient in of_weights.items()},
        ),
    )


@dataclass(eq=False)  # JAX wants it hashed
class _Returned:
    passed_arrays: list[Any] | None = None
    cotangents: dict[int, Any] = field(default_factory=dict)

    def passed(self, arrays: Sequence[jax.Array], levels: Levels) -> None:
        if self.passed_arrays is None:
            self.passed_arrays = list(arrays)

    def returned(self, index: int, cotangent: Any) -> None:
        self.cotangents[index] = cotangent

    def of_floats(self) -> Arrays:
        assert self.passed_arrays is not None
        return [
            to_numpy(self.cotangents.get(i, jnp.zeros_like(x)))
            for i, x in enumerate(self.passed_arrays)
            if is_float(x)
        ]


class _Cotangents:
    def __init__(self, variable: Any) -> None:
        self._variable = variable
        self._running = Running()
        self._ended: list[tuple[str, _Returned]] = []

    def cotangents(self) -> dict[Key, Arrays]:
        counts: Counter[str] = Counter()
        found = {}
        for name, heard in self._ended:
            if heard.passed_arrays is not None:
                found[name, counts[name]] = heard.of_floats()
                counts[name] += 1
        return found

    def around(
        self, name: str, layer: Any, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        self._running.begin(name)
        try:
            output = call(*args, **kwargs)
        finally:
            self._running.end()
        return self._leave(name, output)

    def at(self, name: str, value: Any) -> Any:
        return self._leave(self._running.inside(name), value)

    def _leave(self, name: str, output: Any) -> Any:
        heard = _Returned()
        self._ended.append((name, heard))
        return with_arrays(output, mark(arrays(output), heard, self._variable))


def _like(cotangents: Sequence[NDArray[Any]], outputs: Sequence[jax.Array]) -> list[jax.Array]:
    return [jnp.asarray(c, y.dtype) for c, y in zip(cotangents, outputs, strict=True)]

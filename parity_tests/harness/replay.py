"""One layer alone: its outputs on given inputs, and its gradients for given output cotangents.

And the whole: the cotangent of every call's outputs, for given ones of the model's own.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import NDArray

from parity_tests.harness.copies import copy_of, snapshot
from parity_tests.harness.marks import mark
from parity_tests.harness.record import Call, JaxLayer, as_torch, run
from parity_tests.harness.taps import listened_to
from parity_tests.harness.tensors import to_numpy
from parity_tests.harness.trees import arrays, floats, is_float, map_arrays, with_arrays
from parity_tests.harness.variables import parameters, take_apart

Arrays = list[NDArray[Any]]
Key = tuple[str, int]  # name and count of a call


class NotReplayableError(Exception):
    """A layer that cannot be run alone; why, in words."""


@dataclass(frozen=True)
class Gradients:
    """With respect to the floating-point inputs, in order, and to the weights, by dotted name."""

    inputs: Arrays
    weights: dict[str, NDArray[Any]]


# torch


def torch_outputs(call: Call, args: tuple, kwargs: dict[str, Any]) -> Arrays:
    with torch.no_grad():
        return [to_numpy(x) for x in arrays(_torch_layer(call)(*_torch(args), **_torch(kwargs)))]


def torch_gradients(
    call: Call, args: tuple, kwargs: dict[str, Any], cotangents: Sequence[NDArray[Any]]
) -> Gradients:
    """`cotangents`: one for each floating-point output."""
    layer = _torch_layer(call)
    args, kwargs = _torch(args), _torch(kwargs)
    inputs = [x.requires_grad_() for x in floats([args, kwargs])]
    weights = {name: p.requires_grad_() for name, p in layer.named_parameters()}
    outputs = floats(layer(*map_arrays(torch.clone, args), **map_arrays(torch.clone, kwargs)))
    gradients = _torch_vjp(outputs, [*inputs, *weights.values()], cotangents)
    return Gradients(
        gradients[: len(inputs)], dict(zip(weights, gradients[len(inputs) :], strict=True))
    )


def torch_cotangents(
    model: torch.nn.Module, inputs: Any, cotangents: Sequence[NDArray[Any]]
) -> dict[Key, Arrays]:
    """Of each call's floating-point outputs, for given ones of the model's own."""
    model = copy_of(model)
    ear = _TorchCotangents()
    for parameter in model.parameters():
        parameter.requires_grad_()
    with listened_to(model, ear) as listened:
        leaves = map_arrays(as_torch, inputs)
        for x in floats(leaves):
            x.requires_grad_()
        # Work in place on what a derivative is asked for is refused; on a copy of it, it is not.
        last = floats(run(listened, map_arrays(torch.clone, leaves)))
    flat = [x for outputs in ear.outputs.values() for x in outputs]
    gradients = iter(_torch_vjp(last, flat, cotangents))
    return {key: [next(gradients) for _ in outputs] for key, outputs in ear.outputs.items()}


class _TorchCotangents:
    """Keeps of each call's results a copy that nothing but what follows is computed from."""

    def __init__(self) -> None:
        self._begun: list[str] = []
        self._counts: Counter[str] = Counter()
        self.outputs: dict[Key, list[torch.Tensor]] = {}

    def before(self, name: str, *_: Any) -> None:
        self._begun.append(name)

    def after(self, name: str, output: Any) -> Any:
        self._begun.pop()
        return self._kept(name, output)

    def at(self, name: str, value: Any) -> Any:
        inside = self._begun[-1] if self._begun else ""
        return self._kept(f"{inside}.{name}" if inside else name, value)

    def around(self, *_: Any) -> Any:
        raise NotImplementedError("torch's hooks come before and after")

    def _kept(self, name: str, output: Any) -> Any:
        kept = map_arrays(torch.clone, output)
        self.outputs[name, self._counts[name]] = floats(kept)
        self._counts[name] += 1
        # What follows may work in place: a second copy keeps this one as the layer gave it.
        return map_arrays(torch.clone, kept)


def _torch_layer(call: Call) -> torch.nn.Module:
    if call.layer is None:
        raise NotReplayableError("a tap has no inputs")
    assert isinstance(call.layer, torch.nn.Module)
    return snapshot(call.layer)


def _torch_vjp(
    outputs: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    cotangents: Sequence[NDArray[Any]],
) -> Arrays:
    """Zeros where an output depends on no input, and where an input reaches no output."""
    pairs = [
        (y, as_torch(c).to(y.dtype))
        for y, c in zip(outputs, cotangents, strict=True)
        if y.requires_grad
    ]
    if not pairs:
        return [np.zeros(x.shape, to_numpy(x).dtype) for x in inputs]
    reached = [x for x in inputs if x.requires_grad]
    gradients = iter(
        torch.autograd.grad(
            [y for y, _ in pairs],
            reached,
            [c for _, c in pairs],
            allow_unused=True,
            materialize_grads=True,
        )
    )
    return [to_numpy(next(gradients) if x.requires_grad else torch.zeros_like(x)) for x in inputs]


def _torch(tree: Any) -> Any:
    return map_arrays(as_torch, tree)


# JAX

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
            args, kwargs = arguments
            return self._layer.rebuild(values)(*args, **kwargs)

        def flat(given: list[Any], weights: list[Any]) -> list[Any]:
            args, kwargs = with_arrays(arguments, given)
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
    ears: list[_JaxCotangents] = []

    def outputs(weights: dict[str, Any], given: list[Any], variable: Any) -> list[Any]:
        remaining = iter(given)
        tree = map_arrays(lambda x: next(remaining) if is_float(x) else x, inputs)
        ear = _JaxCotangents(variable)
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

    def passed(self, found: Sequence[Any], levels: Any) -> None:
        if self.passed_arrays is None:
            self.passed_arrays = list(found)

    def returned(self, index: int, cotangent: Any) -> None:
        self.cotangents[index] = cotangent

    def of_floats(self) -> Arrays:
        assert self.passed_arrays is not None
        return [
            to_numpy(self.cotangents.get(i, jnp.zeros_like(x)))
            for i, x in enumerate(self.passed_arrays)
            if is_float(x)
        ]


class _JaxCotangents:
    def __init__(self, variable: Any) -> None:
        self._variable = variable
        self._running: list[str] = []
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
        self._running.append(name)
        try:
            output = call(*args, **kwargs)
        finally:
            self._running.pop()
        return self._leave(name, output)

    def at(self, name: str, value: Any) -> Any:
        inside = self._running[-1] if self._running else ""
        return self._leave(f"{inside}.{name}" if inside else name, value)

    def _leave(self, name: str, output: Any) -> Any:
        heard = _Returned()
        self._ended.append((name, heard))
        return with_arrays(output, mark(arrays(output), heard, self._variable))

    def before(self, *_: Any) -> None:
        raise NotImplementedError("JAX's calls are gone around")

    after = before


def _like(cotangents: Sequence[NDArray[Any]], outputs: Sequence[jax.Array]) -> list[jax.Array]:
    return [jnp.asarray(c, y.dtype) for c, y in zip(cotangents, outputs, strict=True)]

"""One layer alone: its outputs on given inputs, and its gradients for given output cotangents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from numpy.typing import NDArray

from parity_tests.harness.taps import as_torch, run, tapped
from parity_tests.harness.tensors import named_leaves, to_numpy
from parity_tests.harness.trees import arrays, floats, is_float, map_arrays

Arrays = list[NDArray[Any]]


@dataclass(frozen=True)
class Gradients:
    """With respect to the floating-point inputs, in order, and to the weights, by dotted name."""

    inputs: Arrays
    weights: dict[str, NDArray[Any]]


def torch_outputs(layer: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> Arrays:
    with torch.no_grad():
        return [to_numpy(x) for x in arrays(layer(*_torch(args), **_torch(kwargs)))]


def nnx_outputs(layer: nnx.Module, args: tuple, kwargs: dict[str, Any]) -> Arrays:
    layer = nnx.clone(layer)  # running statistics and random streams of the original stay
    return [to_numpy(x) for x in arrays(layer(*_jax(args), **_jax(kwargs)))]


def torch_gradients(
    layer: torch.nn.Module, args: tuple, kwargs: dict[str, Any], cotangents: Sequence[NDArray[Any]]
) -> Gradients:
    """`cotangents`: one for each floating-point output."""
    args, kwargs = _torch(args), _torch(kwargs)
    inputs = [x.requires_grad_() for x in floats([args, kwargs])]
    weights = {name: p.requires_grad_() for name, p in layer.named_parameters()}
    outputs = floats(layer(*args, **kwargs))
    gradients = _torch_vjp(outputs, [*inputs, *weights.values()], cotangents)
    return Gradients(
        gradients[: len(inputs)], dict(zip(weights, gradients[len(inputs) :], strict=True))
    )


def nnx_gradients(
    layer: nnx.Module, args: tuple, kwargs: dict[str, Any], cotangents: Sequence[NDArray[Any]]
) -> Gradients:
    """`cotangents`: one for each floating-point output, of its shape."""
    graphdef, weights, rest = nnx.split(layer, nnx.Param, ...)
    args, kwargs = _jax(args), _jax(kwargs)

    def outputs(weights: nnx.State, inputs: list[jax.Array]) -> list[jax.Array]:
        remaining = iter(inputs)
        given = map_arrays(lambda x: next(remaining) if is_float(x) else x, (args, kwargs))
        return floats(_merge(graphdef, weights, rest)(*given[0], **given[1]))

    primals, vjp = jax.vjp(outputs, weights, floats([args, kwargs]))
    of_weights, of_inputs = vjp(_like(cotangents, primals))
    return Gradients(
        [to_numpy(x) for x in of_inputs],
        {name: to_numpy(leaf) for name, leaf in named_leaves(of_weights)},
    )


def torch_cotangents(
    model: torch.nn.Module, inputs: Any, cotangents: Sequence[NDArray[Any]]
) -> list[Arrays]:
    """Of each call's floating-point outputs, for given ones of the model's own, in call order."""
    outputs: list[list[torch.Tensor]] = []

    def tap(name: str, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        outputs.append(floats(output))
        # What follows may work in place; a copy keeps this tensor as the layer gave it.
        return map_arrays(torch.clone, output)

    for parameter in model.parameters():
        parameter.requires_grad_()
    inputs = map_arrays(lambda x: as_torch(x).clone(), inputs)
    for x in floats(inputs):
        x.requires_grad_()
    with tapped(model, tap):
        last = floats(run(model, inputs))
    gradients = iter(_torch_vjp(last, [x for call in outputs for x in call], cotangents))
    return [[next(gradients) for _ in call] for call in outputs]


def nnx_cotangents(
    model: nnx.Module, inputs: Any, cotangents: Sequence[NDArray[Any]], shapes: list[Arrays]
) -> list[Arrays]:
    """The same. `shapes`: each call's floating-point outputs, as recorded before.

    A cotangent is the gradient with respect to a zero that is added to the output.
    """
    graphdef, state = nnx.split(model)

    def outputs(zeros: list[list[jax.Array]]) -> list[jax.Array]:
        copy = _merge(graphdef, state)
        calls = iter(zeros)

        def tap(name: str, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
            added = iter(next(calls))
            return map_arrays(lambda x: x + next(added) if is_float(x) else x, output)

        with tapped(copy, tap):
            return floats(run(copy, inputs))

    primals, vjp = jax.vjp(outputs, [[jnp.zeros_like(x) for x in call] for call in shapes])
    (gradients,) = vjp(_like(cotangents, primals))
    return [[to_numpy(x) for x in call] for call in gradients]


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


def _merge(graphdef: Any, *states: nnx.State) -> Any:
    """nnx.merge with new variables, which the model may then change inside a derivative too."""
    return nnx.merge(graphdef, *jax.tree.map(lambda x: x, states))


def _like(cotangents: Sequence[NDArray[Any]], outputs: Sequence[jax.Array]) -> list[jax.Array]:
    return [jnp.asarray(c, y.dtype) for c, y in zip(cotangents, outputs, strict=True)]


def _torch(tree: Any) -> Any:
    return map_arrays(lambda x: as_torch(x).clone(), tree)


def _jax(tree: Any) -> Any:
    return map_arrays(jnp.asarray, tree)

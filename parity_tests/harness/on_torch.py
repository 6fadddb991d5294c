"""The reference: listened to, its layers run alone, and run backward."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parity_tests.harness.calls import Arrays, Call, Gradients, Key, NotReplayableError, run
from parity_tests.harness.copies import copy_of, snapshot
from parity_tests.harness.taps import Running, TorchEar, telling
from parity_tests.harness.tensors import as_torch, to_numpy
from parity_tests.harness.trees import arrays, floats, map_arrays, renewed, with_arrays


@contextmanager
def listened_to(model: torch.nn.Module, ear: TorchEar) -> Iterator[None]:
    handles = []

    def before(name: str, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        ear.before(name, module, args, kwargs)

    def after(name: str, module: torch.nn.Module, args: Any, output: Any) -> Any:
        return ear.after(name, output)

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(partial(before, name), with_kwargs=True))
        handles.append(module.register_forward_hook(partial(after, name)))
    try:
        with telling(ear):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _without_ears(layer: torch.nn.Module) -> torch.nn.Module:
    """A copy of a layer that was made while it was listened to, without the hooks that did."""
    for module in layer.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, partial) and hook.func.__module__ == __name__:
                    del hooks[key]
                    module._forward_pre_hooks_with_kwargs.pop(key, None)
    return layer


class Recording:
    def __init__(self) -> None:
        self._running = Running()
        self._begun: list[tuple[Any, tuple, dict[str, Any]]] = []
        self._ended: list[Call] = []

    def calls(self) -> list[Call]:
        return self._ended

    def before(self, name: str, layer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        # Copied now, because a layer may work in place, or fill what is empty yet.
        args, kwargs = (renewed(map_arrays(to_numpy, tree)) for tree in (args, kwargs))
        self._running.begin(name)
        self._begun.append((_without_ears(snapshot(layer)), args, kwargs))

    def after(self, name: str, output: Any) -> Any:
        self._running.end()
        layer, args, kwargs = self._begun.pop()
        output_then = renewed(map_arrays(to_numpy, output))
        self._ended.append(Call(name, 0, args, kwargs, output_then, layer))
        return output

    def at(self, name: str, value: Any) -> Any:
        name = self._running.inside(name)
        self._ended.append(Call(name, 0, (), {}, map_arrays(to_numpy, value), None))
        return value


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
    ear = _Cotangents()
    for parameter in model.parameters():
        parameter.requires_grad_()
    with listened_to(model, ear):
        leaves = map_arrays(as_torch, inputs)
        for x in floats(leaves):
            x.requires_grad_()
        # Work in place on what a derivative is asked for is refused; on a copy of it, it is not.
        last = floats(run(model, map_arrays(torch.clone, leaves)))
    flat = [x for outputs in ear.outputs.values() for x in outputs]
    gradients = iter(_torch_vjp(last, flat, cotangents))
    return {key: [next(gradients) for _ in outputs] for key, outputs in ear.outputs.items()}


class _Cotangents:
    """Keeps of each call's results a copy that nothing but what follows is computed from."""

    def __init__(self) -> None:
        self._running = Running()
        self._counts: Counter[str] = Counter()
        self.outputs: dict[Key, list[torch.Tensor]] = {}

    def before(self, name: str, layer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self._running.begin(name)

    def after(self, name: str, output: Any) -> Any:
        self._running.end()
        return self._kept(name, output)

    def at(self, name: str, value: Any) -> Any:
        return self._kept(self._running.inside(name), value)

    def _kept(self, name: str, output: Any) -> Any:
        kept = map_arrays(torch.clone, output)
        self.outputs[name, self._counts[name]] = floats(kept)
        self._counts[name] += 1
        # What follows may work in place: a second copy keeps this one as the layer gave it.
        return map_arrays(torch.clone, kept)


class TorchCut:
    """A run in which values are put in at some calls, in the place of their results.

    `arrived` is what came there, as NumPy.
    """

    def __init__(self, model: torch.nn.Module, inputs: Any, puts: dict[Key, Arrays]) -> None:
        model = copy_of(model)
        self._weights = {name: p.requires_grad_() for name, p in model.named_parameters()}
        self._puts = {key: [as_torch(x) for x in found] for key, found in puts.items()}
        leaves = map_arrays(as_torch, inputs)
        self._inputs = floats(leaves)
        for x in [*self._inputs, *(x for found in self._puts.values() for x in floats(found))]:
            x.requires_grad_()
        ear = _Putting(self._puts)
        with listened_to(model, ear):
            run(model, map_arrays(torch.clone, leaves))
        self._arrived = ear.arrived
        self.arrived = {key: [to_numpy(x) for x in found] for key, found in ear.arrived.items()}

    def gradients(
        self, key: Key, cotangents: Sequence[NDArray[Any]]
    ) -> tuple[dict[Key, Arrays], Arrays, dict[str, NDArray[Any]]]:
        """Of what arrived at one call: by what was put in, by the model's inputs, by weights."""
        reals = {key: floats(found) for key, found in self._puts.items()}
        flat = [x for found in reals.values() for x in found]
        together = [*flat, *self._inputs, *self._weights.values()]
        gradients = iter(_torch_vjp(floats(self._arrived[key]), together, cotangents))
        of_puts = {key: [next(gradients) for _ in found] for key, found in reals.items()}
        of_inputs = [next(gradients) for _ in self._inputs]
        return of_puts, of_inputs, dict(zip(self._weights, gradients, strict=True))


class _Putting:
    def __init__(self, puts: dict[Key, list[torch.Tensor]]) -> None:
        self._puts = puts
        self._running = Running()
        self._counts: Counter[str] = Counter()
        self.arrived: dict[Key, list[torch.Tensor]] = {}

    def before(self, name: str, layer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self._running.begin(name)

    def after(self, name: str, output: Any) -> Any:
        self._running.end()
        return self._put(name, output)

    def at(self, name: str, value: Any) -> Any:
        return self._put(self._running.inside(name), value)

    def _put(self, name: str, output: Any) -> Any:
        key = name, self._counts[name]
        self._counts[name] += 1
        if key not in self._puts:
            return output
        self.arrived[key] = arrays(output)
        return with_arrays(output, [x.clone() for x in self._puts[key]])


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
            retain_graph=True,  # for other cotangents
            materialize_grads=True,
        )
    )
    return [to_numpy(next(gradients) if x.requires_grad else torch.zeros_like(x)) for x in inputs]


def _torch(tree: Any) -> Any:
    return map_arrays(as_torch, renewed(tree))

"""Listening to every call of a submodule, in torch and in NNX.

torch modules have forward hooks. NNX has none, and Python looks `__call__` up on the class, so for
the time of a tap the classes' `__call__` is wrapped; nothing else is touched. Code that was
compiled before (nnx.jit, nnx.scan) runs past it, as does `layer.forward(x)` in torch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import jax.numpy as jnp
import torch
from flax import nnx

from parity_tests.harness.tensors import to_numpy
from parity_tests.harness.trees import map_arrays

Model = torch.nn.Module | nnx.Module
Tap = Callable[[str, tuple, dict[str, Any], Any], Any]  # name, args, kwargs, output -> output


@contextmanager
def tapped(model: Model, tap: Tap) -> Iterator[None]:
    """While this lasts, every call of a submodule goes through `tap`, which may change the output.

    The arguments that `tap` gets are those before the call, even where the layer works in place.
    """
    with _torch_taps(model, tap) if isinstance(model, torch.nn.Module) else _nnx_taps(model, tap):
        yield


def submodules(model: Model) -> dict[str, Any]:
    """Dotted name -> submodule, the model itself under the empty name."""
    if isinstance(model, torch.nn.Module):
        return dict(model.named_modules())
    return {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}


def run(model: Model, inputs: Any) -> Any:
    """model(*inputs), with the inputs (one array or a tuple) as arrays of the model's framework."""
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    convert = as_torch if isinstance(model, torch.nn.Module) else jnp.asarray
    return model(*map_arrays(convert, inputs))


def as_torch(array: Any) -> torch.Tensor:
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(to_numpy(array))


@contextmanager
def _torch_taps(model: torch.nn.Module, tap: Tap) -> Iterator[None]:
    arguments = []  # of the calls that have begun and not ended

    def before(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        arguments.append(map_arrays(lambda x: x.detach().clone(), (args, kwargs)))

    def after(name: str, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        args, kwargs = arguments.pop()
        return tap(name, args, kwargs, output)

    handles = []
    for name, module in submodules(model).items():
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(partial(after, name), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _nnx_taps(model: nnx.Module, tap: Tap) -> Iterator[None]:
    names = {id(module): name for name, module in submodules(model).items()}
    running = set()  # a subclass that calls super().__call__ is still one call

    def wrap(original: Any) -> Any:
        @wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if id(self) not in names or id(self) in running:
                return original(self, *args, **kwargs)
            running.add(id(self))
            try:
                output = original(self, *args, **kwargs)
            finally:
                running.discard(id(self))
            return tap(names[id(self)], args, kwargs, output)

        return call

    classes: set[Any] = {type(module) for module in submodules(model).values()}
    # The metaclass has a __call__ too, which hasattr would find: a list of layers has none.
    callable_ones = [c for c in classes if any("__call__" in vars(base) for base in c.__mro__)]
    originals = {c: vars(c).get("__call__") for c in callable_ones}  # None: inherited
    wrapped = {c: wrap(c.__call__) for c in callable_ones}  # before any class is changed
    try:
        for c, call in wrapped.items():
            c.__call__ = call
        yield
    finally:
        for c, original in originals.items():
            if original is not None:
                c.__call__ = original
            elif vars(c).get("__call__") is wrapped[c]:
                del c.__call__

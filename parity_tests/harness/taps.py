"""Listening to every call of a layer: torch, NNX, Linen, Equinox, and functions with `tap`.

Each framework is listened to by its own means: torch by forward hooks, Linen by its interceptors;
NNX's and Equinox's classes have their `__call__` wrapped, of a copy of the model, for as long as it
lasts. JAX runs uncompiled meanwhile (`jax.disable_jit`), so that layers inside nnx.jit or lax.scan
are met at every call.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, Protocol

import jax
import torch
from flax import nnx

from parity_tests.harness.kinds import is_equinox, is_partial, kind_of

NAME = "_parity_name"  # an attribute: NNX and Equinox carry it through every transformation


class Ear(Protocol):
    """Takes part in every call of a layer, and in every `tap`."""

    def around(
        self, name: str, layer: Any, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """Makes the call. Its result, or that result changed, goes on in the model."""
        ...

    def at(self, name: str, value: Any) -> Any:
        """What goes on from a `tap` of that name inside the layer that runs."""
        ...

    def before(self, name: str, layer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """Of torch, whose hooks come before and after."""
        ...

    def after(self, name: str, output: Any) -> Any: ...


_listening: ContextVar[Ear | None] = ContextVar("listening", default=None)


def tap(name: str, value: Any) -> Any:
    """`value`, an array or a tree of them, as it is; `trace` and `locate` see it by that name.

    For what is no layer of its own: `x = tap("scores", q @ k.T)`, in torch and in JAX alike. Inside
    a layer the name follows the layer's: "blocks.0.attn.scores".
    """
    ear = _listening.get()
    return value if ear is None else ear.at(name, value)


def layers(model: Any) -> dict[str, Any]:
    """Dotted name -> layer, the model itself under the empty name.

    Of Linen's layers only those that `setup` makes are known before a call; of functions, the
    Equinox modules that are bound to them.
    """
    match kind_of(model):
        case "torch":
            return dict(model.named_modules())
        case "nnx":
            return {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
        case "equinox":
            return dict(_equinox_layers(model, ""))
        case "function" if is_partial(model):
            found = {"": model}
            for prefix, tree in _bound(model):
                found |= dict(_equinox_layers(tree, prefix))
            return found | {"": model}
        case _:
            return {"": model}


@contextmanager
def listened_to(model: Any, ear: Ear) -> Iterator[Any]:
    """The model to call instead while this lasts: every call of a layer goes through `ear`."""
    with ExitStack() as stack:
        before = _listening.set(ear)
        stack.callback(_listening.reset, before)
        kind = kind_of(model)
        if kind == "torch":
            yield stack.enter_context(_torch(model, ear))
            return
        stack.enter_context(jax.disable_jit())
        match kind:
            case "nnx":
                yield stack.enter_context(_nnx(model, ear))
            case "linen":
                yield stack.enter_context(_linen(model, ear))
            case "equinox":
                tapped = _tapped_equinox(model, "")
                yield _root(model, tapped, ear)
            case _:
                yield _function(model, ear)


# torch


@contextmanager
def _torch(model: torch.nn.Module, ear: Ear) -> Iterator[torch.nn.Module]:
    handles = []

    def before(name: str, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        ear.before(name, module, args, kwargs)

    def after(name: str, module: torch.nn.Module, args: Any, output: Any) -> Any:
        return ear.after(name, output)

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(partial(before, name), with_kwargs=True))
        handles.append(module.register_forward_hook(partial(after, name)))
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def without_ears(layer: torch.nn.Module) -> torch.nn.Module:
    """A copy of a layer that was made while it was listened to, without the hooks that did."""
    for module in layer.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, partial) and hook.func.__module__ == __name__:
                    del hooks[key]
                    module._forward_pre_hooks_with_kwargs.pop(key, None)
    return layer


# NNX


@contextmanager
def _nnx(model: nnx.Module, ear: Ear) -> Iterator[nnx.Module]:
    """`model` gets names as attributes: give a copy."""
    classes: set[Any] = set()
    for name, module in layers(model).items():
        setattr(module, NAME, name)
        classes.add(type(module))
    running = set()  # a subclass that calls super().__call__ is still one call

    def wrap(original: Any) -> Any:
        @wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            name = vars(self).get(NAME)
            if name is None or id(self) in running:
                return original(self, *args, **kwargs)
            running.add(id(self))
            try:
                return ear.around(name, self, partial(original, self), args, kwargs)
            finally:
                running.discard(id(self))

        return call

    # The metaclass has a __call__ too, which hasattr would find: a list of layers has none.
    callable_ones = [c for c in classes if any("__call__" in vars(base) for base in c.__mro__)]
    originals = {c: vars(c).get("__call__") for c in callable_ones}  # None: inherited
    wrapped = {c: wrap(c.__call__) for c in callable_ones}  # before any class is changed
    try:
        for c, call in wrapped.items():
            c.__call__ = call
        yield model
    finally:
        for c, original in originals.items():
            if original is not None:
                c.__call__ = original
            elif vars(c).get("__call__") is wrapped[c]:
                del c.__call__


# Linen


@contextmanager
def _linen(model: Any, ear: Ear) -> Iterator[Any]:
    import flax.linen

    def intercept(call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        name = ".".join(map(str, context.module.path))
        return ear.around(name, context.module, call, args, kwargs)

    with flax.linen.intercept_methods(intercept):
        yield model


# Equinox


def _equinox_layers(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Modules that can be called, from the outside in, wherever containers hold them."""
    if is_equinox(tree):
        if callable(tree):
            yield name, tree
        parts = vars(tree).items()
    elif isinstance(tree, dict):
        parts = tree.items()
    elif isinstance(tree, list | tuple):
        parts = enumerate(tree)
    else:
        return
    for key, child in parts:
        yield from _equinox_layers(child, f"{name}.{key}" if name else str(key))


def _tapped_equinox(tree: Any, name: str) -> Any:
    """The tree with modules of classes that know their name and tell of their calls."""

    def inside(key: Any, child: Any) -> Any:
        return _tapped_equinox(child, f"{name}.{key}" if name else str(key))

    if isinstance(tree, dict):
        return type(tree)((key, inside(key, child)) for key, child in tree.items())
    if isinstance(tree, list | tuple):
        parts = [inside(i, child) for i, child in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if not is_equinox(tree):
        return tree
    # Without a name it is all that a function is given, and its call the function's own.
    new = object.__new__(_telling(type(tree), name) if callable(tree) and name else type(tree))
    for key, child in vars(tree).items():
        object.__setattr__(new, key, inside(key, child))
    return new


def _telling(base: type, name: str) -> type:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        ear = _listening.get()
        original = partial(base.__call__, self)
        if ear is None:
            return original(*args, **kwargs)
        return ear.around(name, self, original, args, kwargs)

    body = {"__call__": call, "__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base)(base.__name__, (base,), {**body, NAME: name})


# functions


def _function(model: Any, ear: Ear) -> Callable[..., Any]:
    tapped = model
    if is_partial(model):
        args = [_tapped_equinox(tree, prefix) for prefix, tree in _bound(model)]
        tapped = partial(model.func, *args, **model.keywords)
    return _root(model, tapped, ear)


def _bound(model: Any) -> Iterator[tuple[str, Any]]:
    """What a function's trees are called, and the trees, as in `variables`."""
    for i, tree in enumerate(model.args):
        yield (str(i) if len(model.args) > 1 else ""), tree


def _root(model: Any, tapped: Callable[..., Any], ear: Ear) -> Callable[..., Any]:
    return lambda *args, **kwargs: ear.around("", model, tapped, args, kwargs)

"""Listening to every call of a layer of an NNX, Linen or Equinox model, or of a function.

Each framework by its own means: Linen by its interceptors; NNX's and Equinox's classes have their
`__call__` wrapped, of a copy of the model, for as long as it lasts. JAX runs uncompiled meanwhile
(`jax.disable_jit`), so that layers inside nnx.jit or lax.scan are met at every call.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any

import jax
from flax import nnx

from parity_tests.harness.kinds import is_equinox, is_partial, kind_of
from parity_tests.harness.taps import JaxEar, bound_trees, layers, listener, telling

NAME = "_parity_name"  # an attribute: NNX and Equinox carry it through every transformation


@contextmanager
def listened_to(model: Any, ear: JaxEar) -> Iterator[Callable[..., Any]]:
    """What to call in the model's place: every call of a layer goes through `ear`.

    An NNX model gets names as attributes: give a copy.
    """
    with ExitStack() as stack:
        stack.enter_context(telling(ear))
        stack.enter_context(jax.disable_jit())
        match kind_of(model):
            case "nnx":
                yield stack.enter_context(_nnx(model, ear))
            case "linen":
                yield stack.enter_context(_linen(model, ear))
            case "equinox":
                yield _root(model, _tapped_equinox(model, ""), ear)
            case _:
                yield _function(model, ear)


# NNX


@contextmanager
def _nnx(model: nnx.Module, ear: JaxEar) -> Iterator[nnx.Module]:
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
def _linen(model: Any, ear: JaxEar) -> Iterator[Any]:
    import flax.linen

    def intercept(call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        name = ".".join(map(str, context.module.path))
        return ear.around(name, context.module, call, args, kwargs)

    with flax.linen.intercept_methods(intercept):
        yield model


# Equinox


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
        ear = listener()
        original = partial(base.__call__, self)
        if ear is None:
            return original(*args, **kwargs)
        return ear.around(name, self, original, args, kwargs)

    body = {"__call__": call, "__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base)(base.__name__, (base,), {**body, NAME: name})


# functions


def _function(model: Any, ear: JaxEar) -> Callable[..., Any]:
    tapped = model
    if is_partial(model):
        args = [_tapped_equinox(tree, prefix) for prefix, tree in bound_trees(model)]
        tapped = partial(model.func, *args, **model.keywords)
    return _root(model, tapped, ear)


def _root(model: Any, tapped: Callable[..., Any], ear: JaxEar) -> Callable[..., Any]:
    return lambda *args, **kwargs: ear.around("", model, tapped, args, kwargs)

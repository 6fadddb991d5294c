"""The layers of a model, and `tap` for what is none: what a listener is told of."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from flax import nnx

from parity_tests.harness.kinds import is_equinox, is_partial, kind_of


class Ear(Protocol):
    """Listens to a model."""

    def at(self, name: str, value: Any) -> Any:
        """Of a `tap` of that name inside the layer that runs; what goes on from there."""
        ...


class JaxEar(Ear, Protocol):
    def around(
        self, name: str, layer: Any, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """Makes the call of a layer. Its result, or that result changed, goes on in the model."""
        ...


class TorchEar(Ear, Protocol):
    """torch's hooks come before and after a call."""

    def before(self, name: str, layer: Any, args: tuple, kwargs: dict[str, Any]) -> None: ...

    def after(self, name: str, output: Any) -> Any: ...


_listening: ContextVar[Ear | None] = ContextVar("listening", default=None)


class Running:
    """The names of the layers that run now, one inside the other."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def begin(self, name: str) -> None:
        self._names.append(name)

    def end(self) -> None:
        self._names.pop()

    def inside(self, name: str) -> str:
        """Of a tap: the layer's name before its own."""
        return ".".join(filter(None, [*self._names[-1:], name]))


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
            for prefix, tree in bound_trees(model):
                found |= dict(_equinox_layers(tree, prefix))
            return found | {"": model}
        case _:
            return {"": model}


@contextmanager
def telling(ear: Ear) -> Iterator[None]:
    """While this lasts, `tap` tells of what passes."""
    before = _listening.set(ear)
    try:
        yield
    finally:
        _listening.reset(before)


def listener() -> Any:
    """Who listens now, if anybody does."""
    return _listening.get()


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


def bound_trees(model: Any) -> Iterator[tuple[str, Any]]:
    """What a function's trees are called, and the trees, as in `variables`."""
    for i, tree in enumerate(model.args):
        yield (str(i) if len(model.args) > 1 else ""), tree

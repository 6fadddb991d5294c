"""Ways to plant one fault in the port for as long as a `with` block lasts, its files untouched."""

import __future__

import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

from parity_tests.harness.pairs import forget_templates

Class = Literal[
    "attention",
    "activation and norm",
    "model",
    "loss",
    "gradient",
    "optimizer",
    "data",
    "bridge",
    "generation",
    "dropout",
    "run",
]
Plant = Callable[[], AbstractContextManager[Any]]
planted_targets: dict[str, bool] = {}  # what is replaced at the moment; whether a function


@dataclass(frozen=True)
class Mutant:
    """One fault, the rung that must catch it, and how it gets into the port."""

    name: str
    kind: Class
    description: str
    caught_by: str  # a rung
    plant: Plant
    equivalent: str = ""  # why nothing that one can observe changes; then no rung may catch it

    @contextmanager
    def planted(self) -> Iterator[None]:
        with self.plant():
            forget_programs()
            try:
                yield
            finally:
                forget_programs()


def forget_programs() -> None:
    """Drops what was traced or compiled from the port's functions as they were."""
    forget_templates()
    for _, value in _bindings():
        if hasattr(value, "clear_cache") and not inspect.isclass(value):
            value.clear_cache()


def patched(target: str, replacement: Any) -> Plant:
    """Puts `replacement` in the place of "module:name" or "module:Class.name", wherever bound."""
    return lambda: _replaced(target, replacement)


def wrapped(target: str, wrap: Callable[[Any], Any]) -> Plant:
    """`patched` with a function of what was there."""
    return lambda: _replaced(target, wrap(_find(target)[1]))


def edited(target: str, old: str, new: str) -> Plant:
    """The same function with `old` in its source replaced by `new`, as a porter might mistype it.

    AssertionError unless `old` stands there exactly once: the port has moved on, and so must this.
    """
    return lambda: _replaced(target, _recompiled(target, old, new))


def item(target: str, key: Any, value: Any) -> Plant:
    """One entry of a dictionary of the port."""

    @contextmanager
    def planted() -> Iterator[None]:
        with _noted(target), mock.patch.dict(_find(target)[1], {key: value}):
            yield

    return planted


def is_function(target: str) -> bool:
    """Whether running it leaves a frame of its own name."""
    found = inspect.unwrap(_find(target)[1])
    found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    return inspect.isfunction(found)


@contextmanager
def _noted(target: str) -> Iterator[None]:
    planted_targets[target] = is_function(target)
    try:
        yield
    finally:
        del planted_targets[target]


@contextmanager
def _replaced(target: str, replacement: Any) -> Iterator[None]:
    with _noted(target), _bound(target, replacement):
        yield


@contextmanager
def _bound(target: str, replacement: Any) -> Iterator[None]:
    owner, original = _find(target)
    name = target.rpartition(":")[2].rpartition(".")[2]
    if inspect.isclass(owner):
        with mock.patch.object(owner, name, replacement):
            yield
        return
    places = [(module, name) for (module, name), value in _bindings() if value is original]
    assert places, target
    for module, bound in places:
        setattr(module, bound, replacement)
    try:
        yield
    finally:
        for module, bound in places:
            setattr(module, bound, original)


def _bindings() -> list[tuple[tuple[Any, str], Any]]:
    """Every global name of every module of the port."""
    modules = [m for name, m in sys.modules.items() if name.split(".")[0] == "jax_attn" and m]
    return [((module, name), value) for module in modules for name, value in vars(module).items()]


def _find(target: str) -> tuple[Any, Any]:
    """The module or class that holds the target, and the target."""
    module, _, path = target.partition(":")
    # importlib, because the name jax_attn.generate is a function as well as a module.
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for outer in classes:
        owner = getattr(owner, outer)
    return owner, inspect.getattr_static(owner, name)


def _recompiled(target: str, old: str, new: str) -> Any:
    _, original = _find(target)
    plain: Any = original.fget if isinstance(original, property) else original
    plain = getattr(plain, "__func__", plain)  # of a class method
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(plain)))
    assert source.count(old) == 1, f"{target}: {old!r} stands there {source.count(old)} times"
    module = importlib.import_module(target.partition(":")[0])
    flags = __future__.annotations.compiler_flag
    code = compile(source.replace(old, new), f"<{target} mutated>", "exec", flags, True)
    made: dict[str, Any] = {}
    exec(code, vars(module), made)
    return made[target.rpartition(":")[2].rpartition(".")[2]]

"""Ways to plant one fault in the port for as long as a `with` block lasts, its files untouched."""

import __future__

import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

from parity_tests.suite.planted import planted_bugs, planted_targets
from parity_tests.suite.programs import forget_programs, port_bindings

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
    "accelerator",
]
Plant = Callable[[], AbstractContextManager[Any]]


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
            planted_bugs.append(self.name)
            forget_programs()
            try:
                yield
            finally:
                planted_bugs.remove(self.name)
                forget_programs()


def patched(target: str, replacement: Any) -> Plant:
    """Puts `replacement` in the place of "module:name" or "module:Class.name", wherever bound."""
    return lambda: _replaced(target, replacement)


def wrapped(target: str, wrap: Callable[[Any], Any]) -> Plant:
    """`patched` with a function of what was there."""
    return lambda: _replaced(target, wrap(_find(target)[1]))


def edited(target: str, old: str, new: str, *more: tuple[str, str]) -> Plant:
    """The same function with `old` in its source replaced by `new`, as a porter might mistype it.

    `more` are further pairs, where a fault takes more than one. AssertionError unless each `old`
    stands there exactly once: the port has moved on, and so must this.
    """
    return lambda: _replaced(target, _recompiled(target, (old, new), *more))


def derivative(function: str, part: str, old: str, new: str) -> Plant:
    """`edited` for a function "module:name" with a derivative of its own.

    `part` is the name of the one of its two functions that changes, "…_forward" or "…_backward".
    """
    module_name, _, name = function.partition(":")

    @contextmanager
    def plant() -> Iterator[None]:
        module = importlib.import_module(module_name)
        stem = part.rpartition("_")[0]

        def bind() -> None:
            forward, backward = (
                getattr(module, f"{stem}_{way}") for way in ("forward", "backward")
            )
            getattr(module, name).defvjp(forward, backward)

        try:
            with edited(f"{module_name}:{part}", old, new)():
                bind()
                yield
        finally:
            bind()

    return plant


def item(target: str, key: Any, value: Any) -> Plant:
    """One entry of a dictionary of the port."""

    @contextmanager
    def planted() -> Iterator[None]:
        with noted(target), mock.patch.dict(_find(target)[1], {key: value}):
            yield

    return planted


def is_function(target: str) -> bool:
    """Whether running it leaves a frame of its own name."""
    found = inspect.unwrap(_find(target)[1])
    found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    return inspect.isfunction(found)


@contextmanager
def noted(target: str) -> Iterator[None]:
    """Says that `target` is replaced meanwhile, or something that nothing but it uses."""
    planted_targets[target] = is_function(target)
    try:
        yield
    finally:
        del planted_targets[target]


@contextmanager
def _replaced(target: str, replacement: Any) -> Iterator[None]:
    with noted(target), _bound(target, replacement):
        yield


@contextmanager
def _bound(target: str, replacement: Any) -> Iterator[None]:
    owner, original = _find(target)
    name = target.rpartition(":")[2].rpartition(".")[2]
    if inspect.isclass(owner):
        with mock.patch.object(owner, name, replacement):
            yield
        return
    places = [(module, name) for (module, name), value in port_bindings() if value is original]
    assert places, target
    for module, bound in places:
        setattr(module, bound, replacement)
    try:
        yield
    finally:
        for module, bound in places:
            setattr(module, bound, original)


def _find(target: str) -> tuple[Any, Any]:
    """The module or class that holds the target, and the target."""
    module, _, path = target.partition(":")
    # importlib, because the name jax_attn.generate is a function as well as a module.
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for outer in classes:
        owner = getattr(owner, outer)
    return owner, inspect.getattr_static(owner, name)


def _recompiled(target: str, *replaced: tuple[str, str]) -> Any:
    _, original = _find(target)
    plain: Any = original.fget if isinstance(original, property) else original
    plain = getattr(plain, "__func__", plain)  # of a class method
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(plain)))
    for old, new in replaced:
        assert source.count(old) == 1, f"{target}: {old!r} stands there {source.count(old)} times"
        source = source.replace(old, new)
    module = importlib.import_module(target.partition(":")[0])
    flags = __future__.annotations.compiler_flag
    code = compile(source, f"<{target} mutated>", "exec", flags, True)
    made: dict[str, Any] = {}
    exec(code, vars(module), made)
    return made[target.rpartition(":")[2].rpartition(".")[2]]

"""Arrays inside the arguments and results of calls, whatever holds them.

Tuples, lists, mappings, and objects: dataclasses, the outputs of transformers, anything with
attributes. A module, a function, a flag or a random stream stays what it is.
"""

import copy
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

DEEPEST = 12  # an object inside an object inside an object …; what refers to itself ends here too

_WHOLE = (
    str | bytes | int | float | complex | bool | type(None) | type | types.ModuleType
    | types.FunctionType | types.BuiltinFunctionType | types.MethodType | np.dtype | np.generic
    | torch.nn.Module | torch.dtype | torch.device | torch.Generator | nnx.Object | nnx.Variable
    | jax.Array  # a key: any other is an array
)  # fmt: skip


def is_array(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array):
        return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return isinstance(leaf, torch.Tensor) or (
        isinstance(leaf, np.ndarray) and leaf.dtype != np.object_
    )


def is_float(array: Any) -> bool:
    if isinstance(array, torch.Tensor):
        return array.is_floating_point()
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def named_arrays(tree: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The arrays of a tree, in order, and the way to each: "hidden.0"; "" for a bare one."""
    if is_array(tree):
        yield name, tree
    elif depth < DEEPEST:
        for key, child in children(tree):
            yield from named_arrays(child, f"{name}.{key}" if name else str(key), depth + 1)


def arrays(tree: Any) -> list[Any]:
    """The arrays of a tree, in order."""
    return [array for _, array in named_arrays(tree)]


def floats(tree: Any) -> list[Any]:
    """The floating-point arrays of a tree, in order: those that have a gradient."""
    return [array for array in arrays(tree) if is_float(array)]


def children(tree: Any) -> list[tuple[Any, Any]]:
    """What a tree consists of, by key, position or attribute; nothing for what has no parts."""
    if isinstance(tree, Mapping):
        return list(tree.items())
    if isinstance(tree, list | tuple):
        return list(enumerate(tree))
    if isinstance(tree, _WHOLE) or is_array(tree):
        return []
    return list(_attributes(tree).items())


def map_arrays(function: Callable[[Any], Any], tree: Any, depth: int = 0) -> Any:
    """The tree with `function` of each array in its place; what holds none is the same object."""
    if is_array(tree):
        return function(tree)
    if depth == DEEPEST:
        return tree
    before = children(tree)
    after = [(key, map_arrays(function, child, depth + 1)) for key, child in before]
    if all(new is old for (_, new), (_, old) in zip(after, before, strict=True)):
        return tree
    if isinstance(tree, list | tuple):
        parts = [child for _, child in after]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if isinstance(tree, Mapping):
        return _with_items(tree, dict(after))
    new = copy.copy(tree)
    for key, child in after:
        object.__setattr__(new, key, child)  # also where the class is frozen
    return new


def with_arrays(tree: Any, new: Sequence[Any]) -> Any:
    """The tree with as many other arrays in place of its own."""
    rest: Iterator[Any] = iter(new)
    return map_arrays(lambda _: next(rest), tree)


def renewed(tree: Any, depth: int = 0) -> Any:
    """The same arrays in other containers: what is put into the one is not in the other.

    Also where there is no array yet, as in an empty cache. What cannot be copied stays itself.
    """
    if is_array(tree) or depth == DEEPEST or isinstance(tree, _WHOLE):
        return tree
    parts = [(key, renewed(child, depth + 1)) for key, child in children(tree)]
    try:
        if isinstance(tree, list | tuple):
            values = [part for _, part in parts]
            return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
        new = copy.copy(tree)
        for (key, part), (_, old) in zip(parts, children(tree), strict=True):
            if part is not old and isinstance(tree, Mapping):
                new[key] = part
            elif part is not old:
                object.__setattr__(new, key, part)
    except Exception:  # whatever a copy may raise: of a lock, an iterator
        return tree
    return new


def _with_items(tree: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    if type(tree) is dict:
        return items
    try:
        new: Any = copy.copy(tree)  # an output of transformers: its attributes are its items
        for key, value in items.items():
            new[key] = value
    except TypeError:  # one that cannot be changed
        return type(tree)(items)  # type: ignore[call-arg]
    return new


def _attributes(tree: Any) -> dict[str, Any]:
    slots = [name for c in type(tree).__mro__ for name in _names(vars(c).get("__slots__", ()))]
    found = {name: getattr(tree, name) for name in slots if hasattr(tree, name)}
    return found | getattr(tree, "__dict__", {})


def _names(slots: Any) -> list[str]:
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]

"""Arrays inside the arguments and results of calls: tuples, lists and mappings of them.

Anything else, a module or a flag, stays where it is: jax.tree would take an NNX module apart.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor | jax.Array | np.ndarray)


def is_float(array: Any) -> bool:
    if isinstance(array, torch.Tensor):
        return array.is_floating_point()
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def arrays(tree: Any) -> list[Any]:
    """The arrays of a tree, in order."""
    if is_array(tree):
        return [tree]
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [array for child in tree for array in arrays(child)]
    return []


def floats(tree: Any) -> list[Any]:
    """The floating-point arrays of a tree, in order: those that have a gradient."""
    return [array for array in arrays(tree) if is_float(array)]


def map_arrays(function: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with `function` of each array in its place."""
    if is_array(tree):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_arrays(function, child) for key, child in tree.items()}
    if isinstance(tree, list | tuple):
        children = [map_arrays(function, child) for child in tree]
        return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)
    return tree


def with_arrays(tree: Any, new: Sequence[Any]) -> Any:
    """The tree with as many other arrays in place of its own."""
    rest: Iterator[Any] = iter(new)
    return map_arrays(lambda _: next(rest), tree)

"""Arrays of either framework, alone or in trees, as NumPy arrays with dotted names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from numpy.typing import NDArray

BARE = "value"  # the name of an array that came without one


@dataclass(frozen=True)
class Tensor:
    """One array: its values as float64 (or integers as int64) and the dtype they came in."""

    values: NDArray[Any]
    dtype: str

    @property
    def is_float(self) -> bool:
        return self.values.dtype == np.float64


def flatten(tree: Any) -> dict[str, Tensor]:
    """Every array of a tree of mappings and sequences, by dotted name, in the tree's order.

    None is left out, so that it counts as missing where the other side has an array.
    """
    flat: dict[str, Tensor] = {}
    for name, leaf in named_leaves(tree):
        if name in flat:
            raise ValueError(f"two tensors are called {name!r}")
        flat[name] = as_tensor(leaf, name)
    return flat


def as_tensor(leaf: Any, name: str = BARE) -> Tensor:
    """TypeError for what is neither a real nor an integer array."""
    array = to_numpy(leaf)
    dtype = str(array.dtype)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return Tensor(array.astype(np.float64), dtype)
    if array.dtype.kind in "biu":
        return Tensor(array.astype(np.int64), dtype)
    raise TypeError(f"{name} is {dtype}: only real and integer tensors are compared")


def to_numpy(leaf: Any) -> NDArray[Any]:
    """A copy of an array of either framework, its dtype kept (bfloat16 as jax's)."""
    if not isinstance(leaf, torch.Tensor):
        return np.array(leaf[...] if isinstance(leaf, nnx.Variable) else leaf)
    leaf = leaf.detach().cpu()
    if leaf.dtype == torch.bfloat16:  # NumPy's own dtypes have none
        return leaf.view(torch.int16).numpy().copy().view(jnp.bfloat16)
    return leaf.numpy().copy()


def as_torch(array: Any) -> torch.Tensor:
    """A tensor of its own."""
    if isinstance(array, torch.Tensor):
        return array.detach().clone()
    array = to_numpy(array)
    if array.dtype == jnp.bfloat16:  # NumPy's own dtypes have none
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(array)


def named_leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and leaf, None left out; a bare leaf is called "value"."""
    if tree is None:
        return
    if isinstance(tree, Mapping):
        children = tree.items()
    elif isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        children = enumerate(tree)
    else:
        yield name or BARE, tree
        return
    for key, child in children:
        yield from named_leaves(child, f"{name}.{key}" if name else str(key))

"""load_state_dict and to_state_dict: the bridge itself."""

from collections.abc import Container, Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from jax_attn.errors import InputError
from jax_attn.interop.layouts import CausalMask, Entry, Layout, entries_of

ModelT = TypeVar("ModelT", bound=nnx.Module)


def load_state_dict(
    model: ModelT, state_dict: Mapping[str, Any], layout: Layout = "lecture"
) -> ModelT:
    """Fills `model` with the arrays of `state_dict` and returns it.

    Values are anything NumPy reads; they take the dtype of the model's parameters. InputError names
    what is missing, extra, of another shape, or a tied matrix or causal mask that contradicts
    itself; the model is then unchanged.
    """
    expected = {entry.name: entry for entry in entries_of(model, layout)}
    given = {name: np.asarray(value) for name, value in state_dict.items()}
    given = _with_prefix(given, expected)
    _require_names(given, expected, layout)

    filled: dict[int, tuple[nnx.Param, NDArray]] = {}
    for name, entry in expected.items():
        if name not in given:
            continue
        value = given[name]
        if isinstance(entry, CausalMask):
            if not entry.agrees(value):
                raise InputError(f"{name} {value.shape} is not the causal mask that the model uses")
            continue
        if value.shape != entry.shape:
            raise InputError(f"{name} has shape {value.shape}; the model needs {entry.shape}")
        start = (entry.param, np.array(entry.param[...]))
        target = filled.setdefault(id(entry.param), start)[1]
        value = _in_the_models_dtype(name, value, target.dtype)
        piece = value.T if entry.transposed else value
        if not entry.alias:
            target[entry.index] = piece
        elif not np.array_equal(target, piece):
            raise InputError(f"{name} differs from the embedding that it is tied to")
    for param, value in filled.values():
        param[...] = jnp.asarray(value)
    return model


def to_state_dict(model: nnx.Module, layout: Layout = "lecture") -> dict[str, NDArray]:
    """The model's parameters by the layout's names: the exact inverse of `load_state_dict`."""
    state_dict = {}
    for entry in entries_of(model, layout):
        if isinstance(entry, CausalMask):
            value = entry.value()
            if value is not None:
                state_dict[entry.name] = value
        else:
            piece = np.asarray(entry.param[...])[entry.index]
            state_dict[entry.name] = np.array(piece.T if entry.transposed else piece, order="C")
    return state_dict


def _in_the_models_dtype(name: str, value: NDArray, dtype: np.dtype) -> NDArray:
    """InputError for what are no real numbers, or too large for the model's dtype."""
    if not (jnp.issubdtype(value.dtype, jnp.floating) or value.dtype.kind in "iu"):
        raise InputError(f"{name} is of type {value.dtype}; weights are real numbers")
    with np.errstate(over="ignore"):
        cast = value.astype(dtype)
    if np.isfinite(value.astype(np.float64)).sum() > np.isfinite(cast.astype(np.float64)).sum():
        raise InputError(f"{name} has numbers too large for the model's {dtype}")
    return cast


def _require_names(
    given: Mapping[str, NDArray], expected: Mapping[str, Entry | CausalMask], layout: str
) -> None:
    """InputError that names what is missing and what is not expected."""
    needed = [n for n, e in expected.items() if isinstance(e, Entry) and not e.optional]
    problems = []
    for what, names in (
        ("missing", [name for name in needed if name not in given]),
        ("not expected", [name for name in given if name not in expected]),
    ):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            problems.append(f"{what}: {', '.join(names[:8])}{more}")
    if problems:
        raise InputError(f"state dict of layout {layout!r}: {'; '.join(problems)}")


def _with_prefix(given: dict[str, NDArray], expected: Container[str]) -> dict[str, NDArray]:
    """A bare GPT-2 body's names ("wte.weight") as the whole's ("transformer.wte.weight")."""
    prefix = "transformer."
    return {
        prefix + name if name not in expected and prefix + name in expected else name: value
        for name, value in given.items()
    }

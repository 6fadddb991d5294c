"""load_state_dict and to_state_dict: the bridge itself."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from jax_attn.errors import InputError
from jax_attn.interop.entries import Buffer, Entry
from jax_attn.interop.layouts import Layout, entries_of
from jax_attn.interop.names import look_of
from jax_attn.interop.tensors import arrays_of

ModelT = TypeVar("ModelT", bound=nnx.Module)


def load_state_dict(
    model: ModelT, state_dict: Mapping[str, Any], layout: Layout = "lecture"
) -> ModelT:
    """Fills `model` with the arrays of `state_dict` and returns it.

    Values are tensors of torch, on any device, and whatever NumPy reads; they take the dtype of the
    model's parameters. Names may have the prefixes that torch.compile and data parallelism add.
    InputError names what is missing, extra, of another shape or another layout, no array of real
    numbers, or a tied matrix or causal mask that contradicts itself; the model is then unchanged.
    """
    return fill(model, arrays_of(state_dict), layout)


def fill(model: ModelT, given: Mapping[str, NDArray], layout: Layout) -> ModelT:
    """`load_state_dict` of arrays by plain names. Of the model's own numbers none is looked at."""
    entries = entries_of(model, layout)
    _require_names(given, entries, layout)
    of_param: dict[int, list[tuple[Entry, NDArray]]] = {}
    for entry in entries:
        if entry.name in given:
            value = given[entry.name]
            if isinstance(entry, Entry):
                pieces = of_param.setdefault(id(entry.param), [])
                pieces.append((entry, _piece(entry, value)))
            elif fault := entry.fault(value):
                raise InputError(fault)
    for pieces in of_param.values():
        _require_same(pieces)
    for pieces in of_param.values():
        param = pieces[0][0].param
        value = np.empty(param.shape, param.dtype)
        for entry, piece in pieces:
            value[entry.index] = piece
        if isinstance(param.get_value(), jax.ShapeDtypeStruct):
            param.set_value(jnp.asarray(value))
        else:
            param[...] = jnp.asarray(value)  # where and how the old numbers lie
    return model


def to_state_dict(model: nnx.Module, layout: Layout = "lecture") -> dict[str, NDArray]:
    """The model's parameters by the layout's names: the exact inverse of `load_state_dict`.

    InputError for a model that has parts without a name in the layout.
    """
    state_dict = {}
    for entry in entries_of(model, layout):
        if isinstance(entry, Entry):
            piece = np.asarray(entry.param[...])[entry.index]
            state_dict[entry.name] = np.array(piece.T if entry.transposed else piece, order="C")
        elif (value := entry.value()) is not None:
            state_dict[entry.name] = value
    return state_dict


def _piece(entry: Entry, value: NDArray) -> NDArray:
    """`value` as the part of the parameter that it is. InputError where it does not fit."""
    if value.shape != entry.shape:
        raise InputError(f"{entry.name} has shape {value.shape}; the model needs {entry.shape}")
    value = _in_the_models_dtype(entry.name, value, np.dtype(entry.param.dtype))
    return value.T if entry.transposed else value


def _require_same(pieces: Sequence[tuple[Entry, NDArray]]) -> None:
    """InputError where what is said twice is not the same."""
    whole = pieces[0][1]
    for entry, piece in pieces[1:]:
        if entry.alias and not np.array_equal(whole, piece, equal_nan=True):
            raise InputError(f"{entry.name} differs from the embedding that it is tied to")


def _in_the_models_dtype(name: str, value: NDArray, dtype: np.dtype) -> NDArray:
    """InputError for what are no numbers, or too large for the model's dtype."""
    if value.dtype == bool:
        raise InputError(f"{name} is of type bool; weights are real numbers")
    if value.dtype == dtype:
        return value
    with np.errstate(over="ignore"):
        cast = value.astype(dtype)
    if np.any(np.isinf(cast) & ~np.isinf(value)):
        raise InputError(f"{name} has numbers too large for the model's {dtype}")
    return cast


def _require_names(
    given: Mapping[str, NDArray], entries: Sequence[Entry | Buffer], layout: str
) -> None:
    """InputError that names what is missing and what is not expected."""
    look = look_of(given)
    if look not in (None, layout):
        raise InputError(f"these are weights of layout {look!r}, not {layout!r}")
    expected = {entry.name for entry in entries}
    needed = [e.name for e in entries if isinstance(e, Entry) and not e.optional]
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

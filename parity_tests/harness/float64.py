"""A port in float64: its arrays, and the dtypes that its modules keep for their computations."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity_tests.harness.kinds import is_partial, kind_of
from parity_tests.harness.variables import variables, with_variables

ModelT = TypeVar("ModelT")

_OF_A_DTYPE = ("dtype", "element_type")  # how names of attributes that hold one end


def to_float64(port: ModelT) -> ModelT:
    """A new model of the same kind in float64; the given one is not changed.

    Cast are weights, statistics and other floating-point arrays (bfloat16 too; complex to
    complex128), and the attributes `dtype`, `param_dtype`, `…_dtype` and `…_element_type` of NNX,
    Linen and Equinox modules, of dataclasses that they hold (a config), and among the keywords of
    a `functools.partial`. An attribute of None stays: it follows the inputs. Casts in the code
    itself stay too: see `lift_float32`. TypeError for a torch module, which has `.double()`.
    """
    if kind_of(port) == "torch":
        raise TypeError("a torch module is cast by its own .double()")
    with jax.enable_x64(True):
        wide = {
            name: jnp.asarray(value, dtype=_wider(value.dtype))
            for name, value in variables(port).items()
        }
        model: Any = with_variables(port, wide)
    match kind_of(model):
        case "nnx":
            for _, module in nnx.iter_modules(model):
                _set_all(module, setattr)
        case "linen":
            model = _linen(model)
        case "equinox":
            _equinox(model)
        case _ if is_partial(model):
            words = {name: _widened(name, word) for name, word in model.keywords.items()}
            model = type(model)(model.func, *model.args, **words)
    return model


def _wider(dtype: Any) -> Any:
    """float64 for a floating dtype, complex128 for a complex one, itself for any other."""
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.dtype("float64")
    return jnp.dtype("complex128") if jnp.issubdtype(dtype, jnp.complexfloating) else dtype


def _widened(name: str, value: Any) -> Any:
    """An attribute's new value; the same object where nothing is to be cast."""
    if name.endswith(_OF_A_DTYPE) and value is not None:
        try:
            dtype = jnp.dtype(value)
        except TypeError:
            return value  # a function of that name, say
        return value if _wider(dtype) == dtype else _wider(dtype).type
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Mapping):
        new = _changes({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
        return dataclasses.replace(value, **new) if new else value
    return value


def _changes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    new = {name: _widened(name, value) for name, value in attributes.items()}
    return {name: value for name, value in new.items() if value is not attributes[name]}


def _set_all(module: Any, set_one: Callable[[Any, str, Any], None]) -> None:
    plain = {n: v for n, v in vars(module).items() if not isinstance(v, jax.Array | np.ndarray)}
    for name, value in _changes(plain).items():
        set_one(module, name, value)


def _equinox(tree: Any) -> None:
    """Modules are frozen once made; these were made for this copy."""
    import equinox

    if isinstance(tree, equinox.Module):
        children = list(vars(tree).values())
        plain = {n: v for n, v in vars(tree).items() if not isinstance(v, equinox.Module)}
        for name, value in _changes(plain).items():
            object.__setattr__(tree, name, value)
    else:
        children = list(tree.values()) if isinstance(tree, dict) else tree
    for child in children:
        if isinstance(child, equinox.Module | list | tuple | dict):
            _equinox(child)


def _linen(model: Any) -> Any:
    module, tree = model.unbind()
    scope = model.scope
    random = {name: stream.as_jax_rng() for name, stream in scope.rngs.items()}
    return _linen_module(module).bind(tree, rngs=random, mutable=scope.mutable)


def _linen_module(value: Any) -> Any:
    """Modules among a module's fields, in lists too, have fields of their own."""
    import flax.linen

    if isinstance(value, list | tuple):
        return type(value)(map(_linen_module, value))
    if not isinstance(value, flax.linen.Module):
        return value
    fields = {
        f.name: getattr(value, f.name)
        for f in dataclasses.fields(value)
        if f.init and f.name not in ("parent", "name")
    }
    inside = {
        name: _linen_module(field)
        for name, field in fields.items()
        if isinstance(field, flax.linen.Module | list | tuple)
    }
    plain = {name: field for name, field in fields.items() if name not in inside}
    return value.clone(parent=None, **_changes(plain), **inside)

"""What kind of model a port is. Frameworks that nobody has imported are not imported to ask."""

import functools
import inspect
import sys
from typing import Any, Literal

import torch
from flax import nnx

Kind = Literal["torch", "nnx", "linen", "equinox", "function"]


def kind_of(model: Any) -> Kind:
    """TypeError, with what to give instead, for what is none of them."""
    if isinstance(model, torch.nn.Module):
        return "torch"
    if isinstance(model, nnx.Module):
        return "nnx"
    if _is_one_of(model, "flax.linen", "Module"):
        if model.scope is None:
            raise TypeError(
                f"{type(model).__name__} is a Linen module without its variables: give "
                "module.bind(variables)"
            )
        return "linen"
    if is_equinox(model):
        return "equinox"
    if callable(model):
        inside = inspect.unwrap(model)  # of jax.vmap(model), nnx.vmap(model), jax.jit(model)
        of_linen = _is_one_of(inside, "flax.linen", "Module")
        if isinstance(inside, nnx.Module) or of_linen or is_equinox(inside):
            way = (
                "lambda variables, x: jax.vmap(partial(module.apply, variables))(x), variables"
                if of_linen
                else "lambda model, x: jax.vmap(model)(x), model"
            )
            raise TypeError(
                f"a function around a {type(inside).__name__} hides its layers and weights: give "
                f"functools.partial({way})"
            )
        return "function"
    raise TypeError(
        f"a {type(model).__name__} is no model: give a torch, NNX, bound Linen or Equinox module, "
        "or a function, whose parameters functools.partial(function, parameters) binds"
    )


def is_partial(model: Any) -> bool:
    """Whether it is a function with parameters: functools' partial, or jax.tree_util's."""
    return isinstance(model, functools.partial)


def is_equinox(model: Any) -> bool:
    return _is_one_of(model, "equinox", "Module")


def _is_one_of(model: Any, package: str, name: str) -> bool:
    loaded = sys.modules.get(package)
    return loaded is not None and isinstance(model, getattr(loaded, name, ()))

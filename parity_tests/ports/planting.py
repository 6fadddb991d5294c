"""Ways to make a faulty port of a correct one, one for each front end."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx

Plant = Callable[[Any], Any]


def layer_at(model: Any, path: str) -> Any:
    for part in path.split(".") if path else ():
        model = model[int(part)] if part.isdigit() else getattr(model, part)
    return model


def nnx_class(path: str, cls: type) -> Plant:
    """The NNX layer of this name, or the model under "", becomes one of another class."""

    def plant(port: Any) -> Any:
        layer_at(port, path).__class__ = cls
        return port

    return plant


def nnx_attribute(path: str, **values: Any) -> Plant:
    """The NNX layer of this name gets other attributes."""

    def plant(port: Any) -> Any:
        for name, value in values.items():
            setattr(layer_at(port, path), name, value)
        return port

    return plant


def nnx_weight(path: str, change: Callable[[Any], Any]) -> Plant:
    """The variable of this name gets other values."""

    def plant(port: Any) -> Any:
        variable = layer_at(port, path)
        variable[...] = change(variable[...])
        return port

    return plant


def linen(**fields: Any) -> Plant:
    """The bound Linen model is made with other fields."""

    def plant(port: Any) -> Any:
        module, variables = port.unbind()
        return module.clone(**fields).bind(variables)

    return plant


def eqx_class(path: str, cls: type) -> Plant:
    """The Equinox layer of this name, or the model under "", becomes one of another class."""

    def convert(layer: Any) -> Any:
        new = object.__new__(cls)
        for field in dataclasses.fields(layer):
            object.__setattr__(new, field.name, getattr(layer, field.name))
        return new

    return lambda port: _eqx_replaced(port, path, convert)


def eqx_attribute(path: str, **values: Any) -> Plant:
    """The Equinox layer of this name gets other attributes, static ones too."""

    def change(layer: Any) -> Any:
        new = object.__new__(type(layer))
        for field in dataclasses.fields(layer):
            value = values.get(field.name, getattr(layer, field.name))
            object.__setattr__(new, field.name, value)
        return new

    return lambda port: _eqx_replaced(port, path, change)


def _eqx_replaced(port: Any, path: str, change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(port)
    return eqx.tree_at(lambda model: layer_at(model, path), port, replace_fn=change)


def calls(function: Callable[..., Any]) -> Plant:
    """Another function with the same parameters bound."""
    return lambda port: partial(function, *port.args)

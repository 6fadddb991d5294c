"""An operation of JAX that does nothing but tell of the arrays that pass, and of their cotangents.

What a layer is given and gives are not arrays yet where it runs under jax.vmap, jax.checkpoint or a
derivative; this operation is told by JAX when they are.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Levels = tuple[tuple[bool, ...], ...]  # of jax.vmap around, inmost first: which arrays it maps


class Listener(Protocol):
    """Is told of each array with the axes that jax.vmap maps before its own, the outmost first."""

    def passed(self, arrays: Sequence[jax.Array], levels: Levels) -> None: ...

    def returned(self, index: int, cotangent: jax.Array) -> None: ...


def mark(arrays: Sequence[Any], listener: Listener, variable: Any = None) -> list[Any]:
    """The arrays as they are; `listener` hears of them, and of their cotangents, if any come.

    `variable` is a number with respect to which is differentiated. Given, cotangents come also of
    arrays that no other variable reaches, as behind a stop_gradient.
    """
    if not arrays:
        listener.passed((), ())
        return []
    if variable is None:
        return _passing.bind(*arrays, listener=listener, levels=(), with_variable=False)
    together = [*arrays, variable]
    return _passing.bind(*together, listener=listener, levels=(), with_variable=True)[:-1]


_passing = Primitive("parity_passing")  # of all arrays of one call
_passing.multiple_results = True
_tangent = Primitive("parity_tangent")  # of one of them
_cotangent = Primitive("parity_cotangent")


@_passing.def_impl
def _(*arrays: Any, listener: Listener, levels: Levels, with_variable: bool) -> list[Any]:
    listener.passed(arrays[:-1] if with_variable else arrays, levels)
    return list(arrays)


@_cotangent.def_impl
def _(cotangent: Any, *, listener: Listener, index: int) -> Any:
    listener.returned(index, cotangent)
    return cotangent


@_tangent.def_impl
def _(tangent: Any, *, listener: Listener, index: int) -> Any:
    return tangent


_passing.def_abstract_eval(lambda *avals, **_: list(avals))
_tangent.def_abstract_eval(lambda aval, *, listener, index: aval)
_cotangent.def_abstract_eval(lambda aval, *, listener, index: aval)


def _differentiate(
    primals: Any, tangents: Any, *, listener: Listener, levels: Levels, with_variable: bool
) -> Any:
    passed = _passing.bind(*primals, listener=listener, levels=levels, with_variable=with_variable)
    told = []
    for i, (primal, tangent) in enumerate(zip(primals, tangents, strict=True)):
        is_real = jnp.issubdtype(primal.dtype, jnp.floating)
        if with_variable and isinstance(tangent, ad.Zero) and is_real:
            tangent = jnp.broadcast_to(tangents[-1].astype(primal.dtype), primal.shape)
        if is_real and not isinstance(tangent, ad.Zero):
            tangent = _tangent.bind(tangent, listener=listener, index=i)
        told.append(tangent)
    return passed, told


def _transpose(cotangent: Any, _: Any, *, listener: Listener, index: int) -> Any:
    if isinstance(cotangent, ad.Zero):
        return (cotangent,)
    return (_cotangent.bind(cotangent, listener=listener, index=index),)


def _map_all(
    arrays: Any, axes: Any, *, listener: Listener, levels: Levels, with_variable: bool
) -> Any:
    mapped = tuple(axis is not None for axis in axes)
    first = [
        jnp.moveaxis(x, axis, 0) if is_mapped else x
        for x, axis, is_mapped in zip(arrays, axes, mapped, strict=True)
    ]
    passed = _passing.bind(
        *first, listener=listener, levels=(*levels, mapped), with_variable=with_variable
    )
    return passed, [0 if is_mapped else None for is_mapped in mapped]


def _map_one(primitive: Any) -> Any:
    def rule(arrays: Any, axes: Any, **parameters: Any) -> Any:
        return primitive.bind(jnp.moveaxis(arrays[0], axes[0], 0), **parameters), 0

    return rule


ad.primitive_jvps[_passing] = _differentiate
batching.primitive_batchers[_passing] = _map_all
mlir.register_lowering(_passing, lambda _, *arrays, **__: arrays)
for _linear in (_tangent, _cotangent):
    ad.deflinear2(_linear, _transpose)
    batching.primitive_batchers[_linear] = _map_one(_linear)
    mlir.register_lowering(_linear, lambda _, array, **__: [array])

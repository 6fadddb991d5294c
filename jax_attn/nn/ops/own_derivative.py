"""A function whose reverse-mode derivative is written out, with all of JAX's other transformations.

`jax.custom_vjp` has the first, but neither forward mode nor what is made of it: `jax.jvp`,
`jax.linearize`, `jax.hessian`. `jax.custom_derivatives.linear_call` has forward mode, but neither
`jax.vmap` nor a second derivative.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


class OwnDerivative:
    """In the place of `jax.custom_vjp`, with the conventions of its `defvjp`; a decorator.

    The result's tangent is a linear operation on the arguments' tangents, `linear_p`. Evaluated, it
    is what JAX makes of `plain`, the same function in operations that can be differentiated
    forwards; transposed, and that is reverse mode, it is what `defvjp` was given. Both know the
    other as their transpose, and of both further derivatives are those of `plain`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        nondiff_argnums: Sequence[int] = (),
        plain: Callable[..., Any] | None = None,
    ) -> None:
        """`plain` None is `function` itself."""
        functools.update_wrapper(self, function)
        self._function = function
        self._signature = inspect.signature(function)
        self.plain = plain or function
        self.static_places = tuple(nondiff_argnums)

    def defvjp(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        """`forward(*arguments)`: result, saved; `backward(*nondiff, saved, cotangent)`."""
        self._forward, self.backward = forward, backward

    @no_type_check  # of anything, and its inner functions would be prepared anew for every call
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arguments = self._signature.bind(*args, **kwargs).args
        static = tuple(arguments[i] for i in self.static_places)
        leaves, tree = jax.tree.flatten(
            [a for i, a in enumerate(arguments) if i not in self.static_places]
        )
        shapes: dict[str, Any] = {}  # of what `forward` returned, known once it has run

        @jax.custom_jvp
        def result_of(*leaves: Any) -> Any:
            return self._function(*self.arguments(static, tree, leaves))

        @jax.custom_jvp
        def result_and_saved(*leaves: Any) -> list[Any]:
            result, saved = self._forward(*self.arguments(static, tree, leaves))
            results, shapes["result"] = jax.tree.flatten(result)
            kept, shapes["saved"] = jax.tree.flatten(saved)
            return results + [jnp.asarray(x) for x in kept]

        def differentiated(primals: Any, tangents: Any) -> tuple[list[Any], list[Any], list[Any]]:
            everything = result_and_saved(*primals)
            n = shapes["result"].num_leaves
            results, kept = everything[:n], everything[n:]
            moving = tuple(i for i, t in enumerate(tangents) if _is_tangent(t))
            operation = _Tangent(
                self,
                static,
                tree,
                shapes["result"],
                shapes["saved"],
                tuple(jax.typeof(x) for x in results),
                len(kept),
                moving,
            )
            moved = [tangents[i] for i in moving]
            return results, kept, linear_p.bind(*kept, *primals, *moved, operation=operation)

        @result_of.defjvp
        def _(primals: Any, tangents: Any) -> tuple[Any, Any]:
            results, _, moved = differentiated(primals, tangents)
            tree = shapes["result"]
            return jax.tree.unflatten(tree, results), jax.tree.unflatten(tree, moved)

        # Whoever differentiates once more gets nothing by way of what was saved: `plain`, which
        # further derivatives are of, begins from the arguments.
        @result_and_saved.defjvp
        def _(primals: Any, tangents: Any) -> tuple[list[Any], list[Any]]:
            results, kept, moved = differentiated(primals, tangents)
            return results + kept, moved + [_no_tangent(x) for x in kept]

        return result_of(*leaves)

    def arguments(self, static: Sequence[Any], tree: Any, leaves: Sequence[Any]) -> list[Any]:
        """Of the function, from the static ones and the leaves of the others."""
        arguments = list(jax.tree.unflatten(tree, leaves))
        for place, value in zip(self.static_places, static, strict=True):
            arguments.insert(place, value)
        return arguments


def own_derivative(
    *, nondiff_argnums: Sequence[int] = (), plain: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], OwnDerivative]:
    """`@own_derivative(...)` in the place of `@partial(jax.custom_vjp, ...)`."""
    return functools.partial(OwnDerivative, nondiff_argnums=nondiff_argnums, plain=plain)


def _is_tangent(x: Any) -> bool:
    """Or it stands for that of an integer."""
    return getattr(x, "dtype", None) != jax.dtypes.float0


def _no_tangent(x: Any) -> Any:
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)


@dataclass(frozen=True)
class _Tangent:
    """Of (saved, arguments, tangents): the result's tangents."""

    owner: OwnDerivative
    static: tuple[Any, ...]
    tree: Any  # of the arguments that are not static
    result_tree: Any
    saved_tree: Any
    results: tuple[Any, ...]  # shapes
    n_saved: int
    moving: tuple[int, ...]  # which of their leaves have a tangent

    @property
    def n_linear(self) -> int:
        return len(self.moving)

    def transposed(self) -> _Cotangent:
        return _Cotangent(self)

    def shapes(self, operands: Sequence[Any]) -> list[Any]:
        del operands
        return list(self.results)

    def of_moving(self, leaves: Sequence[Any]) -> tuple[Callable[..., list[Any]], list[Any]]:
        """`plain` as a function of the leaves that have a tangent, and their values."""

        def function(*values: Any) -> list[Any]:
            moved = list(leaves)
            for i, value in zip(self.moving, values, strict=True):
                moved[i] = value
            arguments = self.owner.arguments(self.static, self.tree, moved)
            return jax.tree.leaves(self.owner.plain(*arguments))

        return function, [leaves[i] for i in self.moving]

    def plain(self, *operands: Any) -> list[Any]:
        n = len(operands) - self.n_linear
        function, values = self.of_moving(operands[self.n_saved : n])
        return jax.jvp(function, values, list(operands[n:]))[1]

    evaluate = plain


@dataclass(frozen=True)
class _Cotangent:
    """Its transpose. Of (saved, arguments, the result's cotangents): those of the arguments."""

    of: _Tangent

    @property
    def n_linear(self) -> int:
        return self.of.result_tree.num_leaves

    def transposed(self) -> _Tangent:
        return self.of

    def shapes(self, operands: Sequence[Any]) -> list[Any]:
        return [operands[self.of.n_saved + i] for i in self.of.moving]

    def evaluate(self, *operands: Any) -> list[Any]:
        n = len(operands) - self.n_linear
        saved = jax.tree.unflatten(self.of.saved_tree, operands[: self.of.n_saved])
        leaves = operands[self.of.n_saved : n]
        cotangent = jax.tree.unflatten(self.of.result_tree, operands[n:])
        found: list[Any] = []
        arguments = jax.tree.unflatten(self.of.tree, leaves)
        parts = self.of.owner.backward(*self.of.static, saved, cotangent)
        for argument, part in zip(arguments, parts, strict=True):
            none = [None] * len(jax.tree.leaves(argument))
            found += none if part is None else jax.tree.leaves(part)
        return [found[i] for i in self.of.moving]

    def plain(self, *operands: Any) -> list[Any]:
        n = len(operands) - self.n_linear
        function, values = self.of.of_moving(operands[self.of.n_saved : n])
        return list(jax.vjp(function, *values)[1](list(operands[n:])))


@dataclass(frozen=True)
class _Mapped:
    """An operation for every index of a leading axis."""

    of: Any
    axes: tuple[int | None, ...]  # of the operands it is not linear in; of the others it is 0

    @property
    def n_linear(self) -> int:
        return self.of.n_linear

    def transposed(self) -> _Mapped:
        return _Mapped(self.of.transposed(), self.axes)

    def shapes(self, operands: Sequence[Any]) -> list[Any]:
        axes = (*self.axes, *[0] * self.n_linear)
        one = [
            x if a is None else x.update(shape=x.shape[:a] + x.shape[a + 1 :])
            for x, a in zip(operands, axes, strict=True)
        ]
        size = operands[-1].shape[0]
        return [x.update(shape=(size, *x.shape)) for x in self.of.shapes(one)]

    def _map(self, function: Callable[..., Any], operands: Sequence[Any]) -> list[Any]:
        return jax.vmap(function, (*self.axes, *[0] * self.n_linear))(*operands)

    def evaluate(self, *operands: Any) -> list[Any]:
        return self._map(self.of.evaluate, operands)

    def plain(self, *operands: Any) -> list[Any]:
        return self._map(self.of.plain, operands)


linear_p = Primitive("own_derivative")
linear_p.multiple_results = True


def _evaluate(*operands: Any, operation: Any) -> list[Any]:
    return operation.evaluate(*operands)


linear_p.def_impl(_evaluate)
mlir.register_lowering(linear_p, mlir.lower_fun(_evaluate, multiple_results=True))


@linear_p.def_abstract_eval
def _shapes(*operands: Any, operation: Any) -> list[Any]:
    return [x.update(weak_type=False) for x in operation.shapes(operands)]


def _differentiate(operands: Any, tangents: Any, *, operation: Any) -> tuple[Any, Any]:
    n = len(operands) - operation.n_linear
    result = linear_p.bind(*operands, operation=operation)
    if all(type(t) is ad.Zero for t in tangents[:n]):
        moved = [ad.instantiate_zeros(t) for t in tangents[n:]]
        return result, linear_p.bind(*operands[:n], *moved, operation=operation)
    places = [i for i, t in enumerate(tangents) if type(t) is not ad.Zero]

    def of_places(*values: Any) -> list[Any]:
        moved = list(operands)
        for i, value in zip(places, values, strict=True):
            moved[i] = value
        return operation.plain(*moved)

    given = [operands[i] for i in places], [tangents[i] for i in places]
    return result, jax.jvp(of_places, *given)[1]


ad.primitive_jvps[linear_p] = _differentiate


def _transpose(cotangents: Any, *operands: Any, operation: Any) -> list[Any]:
    n = len(operands) - operation.n_linear
    given = [ad.instantiate_zeros(c) for c in cotangents]
    found = linear_p.bind(*operands[:n], *given, operation=operation.transposed())
    linear = zip(operands[n:], found, strict=True)
    return [None] * n + [c if ad.is_undefined_primal(x) else None for x, c in linear]


ad.primitive_transposes[linear_p] = _transpose


def _map(operands: Any, axes: Any, *, operation: Any) -> tuple[Any, Any]:
    n = len(operands) - operation.n_linear
    size = next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)
    linear = [
        jnp.broadcast_to(x, (size, *x.shape)) if a is None else jnp.moveaxis(x, a, 0)
        for x, a in zip(operands[n:], axes[n:], strict=True)
    ]
    out = linear_p.bind(*operands[:n], *linear, operation=_Mapped(operation, tuple(axes[:n])))
    return out, [0] * len(out)


batching.primitive_batchers[linear_p] = _map

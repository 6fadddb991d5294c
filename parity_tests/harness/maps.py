"""What a rule does to arrays: of the reference to the port's, back, and to gradients.

The ready-made maps. Those of one array work on each of several, so that they can follow a split:
`chain(split(3), LINEAR)` takes a packed query, key and value apart and transposes each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Arrays = tuple[Any, ...]
Function = Callable[..., Any]  # of arrays, one for each name of a rule; gives an array or a tuple
Axes = Sequence[int]


@dataclass(frozen=True)
class Map:
    """`to_port(*reference)` gives the port's arrays, `to_reference(*port)` the reference's.

    Both take and give one array, or a tuple of them in the order of the rule's names, and see NumPy
    arrays; `to_port` also JAX's, if `gradient` is left out: it maps the port's gradients to the
    reference's and is then JAX's derivative of `to_port`, right whatever the map.

    `loses` says what does not come back, of a map that is no bijection; without it `to_reference`
    must undo `to_port`, which a bridge checks on the weights it is given.
    """

    to_port: Function
    to_reference: Function | None = None
    gradient: Function | None = None
    loses: str = ""


def permutation(to_port: Function, to_reference: Function) -> Map:
    """Of a function that only moves numbers about: the gradient goes the way back."""
    return Map(_each(to_port), _each(to_reference), gradient=_each(to_reference))


def transpose(axes: Axes) -> Map:
    back = tuple(int(axis) for axis in np.argsort(axes))

    def there(x: Any) -> Any:
        if x.ndim != len(axes):
            raise ValueError(f"{len(axes)} axes to permute, and {x.ndim} given")
        return x.transpose(tuple(axes))

    return permutation(there, lambda x: x.transpose(back))


def chain(*maps: Map | Axes) -> Map:
    """One after the other, on the way to the port; axes are a `transpose`."""
    steps = [as_map(step) for step in maps]
    ways_back = [step.to_reference for step in reversed(steps)]
    gradients = [step.gradient for step in reversed(steps)]
    return Map(
        _composed([step.to_port for step in steps]),
        None if None in ways_back else _composed(ways_back),
        None if None in gradients else _composed(gradients),
        loses="; ".join(step.loses for step in steps if step.loses),
    )


def as_map(step: Map | Axes | None) -> Map:
    if step is None:
        return permutation(lambda x: x, lambda x: x)
    return step if isinstance(step, Map) else transpose(step)


def heads(n_head: int, head_size: int, axis: int = 0) -> Map:
    """A torch Linear whose outputs are heads, to an array with an axis of heads, as Flax has it.

    Weight [H·K, C] -> [C, H, K], bias [H·K] -> [H, K]. With `axis=1` the heads are the inputs, as
    in the projection out: weight [C, H·K] -> [H, K, C].
    """
    split = (n_head, head_size)

    def there(x: Any) -> Any:
        if x.ndim == 1:
            return x.reshape(split)
        return x.T.reshape((x.shape[1], *split) if axis == 0 else (*split, x.shape[0]))

    def back(x: Any) -> Any:
        if x.ndim == 2:
            return x.reshape(-1)
        flat = (x.shape[0], -1) if axis == 0 else (-1, x.shape[2])
        return x.reshape(flat).T

    return permutation(there, back)


def flip(*axes: int) -> Map:
    """Reverses the order along these axes: a convolution's kernel for a correlation's."""

    def reversed_(x: Any) -> Any:
        return x[tuple(np.s_[::-1] if i in axes else np.s_[:] for i in range(x.ndim))]

    return permutation(reversed_, reversed_)


def permute_rows(order: ArrayLike, axis: int = 0) -> Map:
    """Row i of the port is row order[i] of the reference; `axis=1` permutes columns.

    ValueError unless `order` has each of 0, 1, … once.
    """
    rows = np.asarray(order)
    if not np.array_equal(np.sort(rows), np.arange(rows.size)):
        raise ValueError(f"not a permutation of {rows.size} rows: {rows.tolist()}")
    back = np.argsort(rows)

    def there(x: Any) -> Any:
        if x.shape[axis] != rows.size:
            raise ValueError(f"{x.shape[axis]} rows, and an order of {rows.size}")
        return x.take(rows, axis=axis)

    return permutation(there, lambda x: x.take(back, axis=axis))


def split(parts: int | Sequence[int], axis: int = 0) -> Map:
    """One array of the reference to several of the port: equal parts, or parts of these sizes."""

    def there(x: Any) -> Arrays:
        ends = np.cumsum(_sizes(parts, x.shape[axis]))
        begins = [0, *ends[:-1]]
        return tuple(
            x[(slice(None),) * axis + (slice(int(i), int(j)),)]
            for i, j in zip(begins, ends, strict=True)
        )

    return Map(there, (back := lambda *xs: _concatenated(xs, axis)), back)


def merge(parts: int | Sequence[int], axis: int = 0) -> Map:
    """Several arrays of the reference to one of the port: the way back of `split`."""
    apart = split(parts, axis)
    assert apart.to_reference is not None
    return Map(apart.to_reference, apart.to_port, apart.to_port)


def add(n: int = 2) -> Map:
    """Arrays that the port holds summed, as torch's two biases of a recurrent layer.

    The sum comes back as the first, and zeros as the others; each has the gradient of the sum.
    """
    return Map(
        lambda *xs: sum(xs[1:], start=xs[0]),
        lambda x: (x, *(np.zeros_like(x) for _ in range(n - 1))),
        lambda g: (g,) * n,
        loses="which of the summed held what: the sum comes back as the first, zeros as the rest",
    )


def plus_constant(constant: float) -> Map:
    """The port holds the reference's values plus a constant: 1 where one side computes 1 + w.

    What comes back is within the rounding of the sum.
    """
    c = float(constant)  # a Python number: the arrays keep their dtype
    same = _each(lambda g: g)
    return Map(_each(lambda x: x + c), _each(lambda x: x - c), same)


def constant(value: Any) -> Map:
    """What the port holds and the reference does without, as the bias of a layer without one.

    `Rule((), "cell.bias", constant(np.zeros(12)))`
    """
    return Map(lambda: np.asarray(value), lambda _: (), lambda _: ())


def inverse(step: Map | Axes) -> Map:
    """The map of a rule whose reference holds what others hold in the port.

    ValueError for a map that has no way back, or that loses something on the way there.
    """
    step = as_map(step)
    if step.to_reference is None or step.loses:
        raise ValueError(f"no inverse of a map that {step.loses or 'has no to_reference'}")
    moves_only = step.gradient is step.to_reference
    return Map(step.to_reference, step.to_port, step.to_port if moves_only else None)


def weight_norm(dim: int | None = 0) -> Map:
    """torch's weight norm, (g, v), to the one weight g·v/|v| of a port that has none.

    What comes back is the weight as v, with its norm as g: the same layer. Both are gradients of
    that one weight's at the reference's own g and v, which is why a bridge asks for them.
    `Rule(("fc.weight_g", "fc.weight_v"), "fc.kernel", chain(weight_norm(), LINEAR))`
    """

    def norm(v: Any) -> Any:
        axes = tuple(i for i in range(v.ndim) if dim is None or i != dim % v.ndim)
        length = (v * v).sum(axis=axes, keepdims=dim is not None)
        return length**0.5

    return Map(
        lambda g, v: v * (g / norm(v)),
        lambda w: (norm(w), w),
        loses="the length of v: the weight itself comes back as v",
    )


def _each(function: Function) -> Function:
    def of_each(*xs: Any) -> Any:
        return tuple(function(x) for x in xs)

    return of_each


def _composed(functions: Sequence[Any]) -> Function:
    def all_of_them(*xs: Any) -> Any:
        for function in functions:
            xs = as_tuple(function(*xs))
        return xs

    return all_of_them


def as_tuple(value: Any) -> Arrays:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _sizes(parts: int | Sequence[int], total: int) -> list[int]:
    if isinstance(parts, int):
        if total % parts:
            raise ValueError(f"{total} rows do not split into {parts} equal parts")
        return [total // parts] * parts
    if sum(parts) != total:
        raise ValueError(f"{total} rows are not {' + '.join(map(str, parts))}")
    return list(parts)


def _concatenated(xs: Arrays, axis: int) -> Any:
    return xs[0].__array_namespace__().concat(xs, axis=axis)

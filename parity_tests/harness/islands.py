"""Where a JAX program that is given float64 rounds to less on the way."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import source_info_util

from parity_tests.harness.copies import copy_of
from parity_tests.harness.linen_errors import in_one_sentence
from parity_tests.harness.tensors import to_numpy
from parity_tests.harness.trees import is_float, map_arrays

# What makes or moves numbers without rounding them.
_EXACT = {
    "iota", "convert_element_type", "bitcast_convert_type", "device_put", "copy",
    "broadcast_in_dim", "reshape", "transpose", "squeeze", "concatenate", "split", "pad", "rev",
    "slice", "dynamic_slice", "dynamic_update_slice", "gather", "select_n", "sort",
    "neg", "abs", "sign", "max", "min", "reduce_max", "reduce_min",
}  # fmt: skip
_COUNTING = {"add", "sub", "max", "convert_element_type"}


def float32_islands(port: Any, *inputs: Any, **keywords: Any) -> tuple[str, ...]:
    """ "rounded to float32 in attention.py:41 (attend)", for each line that does so, in order.

    The port is traced with these inputs, floating-point ones cast to float64, and not changed;
    cast its weights before, with `to_float64`. A line is named where a float64 becomes float32,
    bfloat16 or float16, and where float32 numbers that were never more (a table from
    `jnp.arange(…, dtype=jnp.float32)`) are computed with. What follows on an island is not named
    again. Inside `lift_float32` only what it cannot reach is left. Lines of JAX itself are named
    by the line that calls JAX.
    """
    with jax.enable_x64(True):
        args, words = map_arrays(_float64, (inputs, keywords))

        def program() -> None:
            copy_of(port)(*args, **words)

        with in_one_sentence(port):
            jaxpr = jax.make_jaxpr(program)().jaxpr
    return tuple(dict.fromkeys(_walk(jaxpr, _Known(), "the port")))


def _float64(array: Any) -> jax.Array:
    value = to_numpy(array)
    return jnp.asarray(value, dtype=jnp.float64 if is_float(value) else None)


@dataclass(frozen=True)
class _Known:
    """Variables of a jaxpr that need not be named again."""

    island: set[Any] = field(default_factory=set)  # less than float64, and named where it began
    counts: set[Any] = field(default_factory=set)  # scalars of literals, such as n - 1

    def before(self, outer: Any, inner: Any) -> "_Known":
        """The same inside an equation. What is only handed to one side, a predicate or a loop's
        constants, comes first, so that the last variables correspond."""
        pairs = list(zip(reversed(outer.invars), reversed(inner.invars), strict=False))
        return _Known(
            {b for a, b in pairs if not _is_literal(a) and a in self.island},
            {b for a, b in pairs if self.is_count(a)},
        )

    def after(self, outer: Any, inner: Any, inside: "_Known") -> None:
        for a, b in zip(reversed(outer.outvars), reversed(inner.outvars), strict=False):
            if not _is_literal(b) and b in inside.island:
                self.island.add(a)
            elif inside.is_count(b):
                self.counts.add(a)

    def is_count(self, v: Any) -> bool:
        return _is_literal(v) or v in self.counts


def _walk(jaxpr: Any, known: _Known, place: str) -> Iterator[str]:
    """`place`: of the call that this is the inside of; JAX keeps such insides from call to call."""
    for equation in jaxpr.eqns:
        here = line_of(equation) or place
        inner = [j for value in equation.params.values() for j in inner_programs(value)]
        for body in inner:
            inside = known.before(equation, body)
            yield from _walk(body, inside, here)
            known.after(equation, body, inside)
        if inner:
            continue
        name = equation.primitive.name
        if name in _COUNTING and all(map(known.is_count, equation.invars)):
            known.counts.update(equation.outvars)
            continue
        narrow = [v for v in equation.outvars if _bits(v) < 64]
        if not narrow:
            continue
        inputs = [v for v in equation.invars if not _is_literal(v)]
        seen = any(v in known.island for v in inputs)
        if any(_bits(v) == 64 for v in inputs):
            yield f"rounded to {narrow[0].aval.dtype} in {here}"
        elif not seen and name not in _EXACT:
            yield f"computed in {narrow[0].aval.dtype} in {here}"
        elif not seen:
            continue
        known.island.update(narrow)


def _is_literal(variable: Any) -> bool:
    return hasattr(variable, "val")


def inner_programs(value: Any) -> Iterator[Any]:
    """Of a parameter of an equation: what it runs."""
    if isinstance(value, tuple | list):
        for child in value:
            yield from inner_programs(child)
    elif hasattr(value, "eqns"):
        yield getattr(value, "jaxpr", value)


def _bits(variable: Any) -> float:
    """Of a floating-point number; more than any for what is none."""
    dtype = getattr(variable.aval, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return float("inf")
    return 8 * dtype.itemsize


def line_of(equation: Any) -> str:
    """ "attention.py:41 (attend)", the nearest that is not JAX's own; "" if there is none."""
    frame = source_info_util.user_frame(equation.source_info.traceback)
    if frame is None:
        return ""
    return f"{Path(frame.file_name).name}:{frame.start_line} ({frame.function_name})"

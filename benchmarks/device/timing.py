"""Operations timed in loops that run on the device, so that calling them costs nothing."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.device.record import Record
from benchmarks.device.sizes import Sizes

TIMINGS = 5
MOST_CALLS = 100  # of the loop in one timing
COMPILED_AT_ONCE = 4  # autotuning takes as much memory as the operation


@dataclass(frozen=True)
class Variant:
    """One way to compute something: a function of arrays, and the arrays."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    kept_bytes: int | None = None  # what the forward pass leaves for the backward pass


def forward_backward(
    name: str,
    function: Callable[..., Any],
    inputs: Sequence[Any],
    cotangent: Any,
    others: Sequence[Any] = (),
) -> Variant:
    """`function(*inputs, *others)` and its derivative by `inputs`, apart as they are in training.

    A barrier between the two makes the forward pass really write down what the backward pass needs.
    """

    def of_inputs(inputs, others):
        return jax.vjp(lambda *inputs: function(*inputs, *others), *inputs)

    def both(inputs, cotangent, others):
        out, backward = jax.lax.optimization_barrier(of_inputs(inputs, others))
        return out, backward(cotangent)

    arguments = (tuple(inputs), cotangent, tuple(others))
    kept = jax.make_jaxpr(lambda i, o: jax.tree.leaves(of_inputs(i, o)[1]))(inputs, others)
    names = {id(v): v.aval for v in kept.jaxpr.outvars if not hasattr(v, "val")}
    kept_bytes = sum(x.size * x.dtype.itemsize for x in names.values())
    return Variant(name, both, arguments, kept_bytes)


def loop(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """`count` calls of `function` with the same arguments in one program; the last one's result."""

    def calls(*arguments):
        nothing = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *arguments)
        )

        def call(_, carry):
            # Each call seems to depend on the one before it, so none is left out.
            arguments, _ = jax.lax.optimization_barrier(carry)
            return arguments, function(*arguments)

        return jax.lax.fori_loop(0, count, call, (arguments, nothing))[1]

    return jax.jit(calls)


def time_variants(
    record: Record,
    operation: str,
    variants: Sequence[Variant],
    sizes: Sizes,
    reference: Variant | None = None,
    **details: Any,
) -> None:
    """Records every variant's seconds, and its error relative to `reference`.

    All are compiled first, several at a time; one that cannot be compiled or run is recorded.
    """

    def compiled(variant: Variant) -> Any:
        return loop(variant.function, sizes.repeats).lower(*variant.arguments).compile()

    def computed_exactly(variant: Variant) -> Any:
        with jax.default_matmul_precision("highest"):
            return jax.block_until_ready(jax.jit(variant.function)(*variant.arguments))

    with ThreadPoolExecutor(min(COMPILED_AT_ONCE, os.cpu_count() or 1)) as threads:
        exact = None if reference is None else threads.submit(computed_exactly, reference)
        programs = [threads.submit(compiled, variant) for variant in variants]
    expected = None if exact is None else exact.result()
    for variant, program in zip(variants, programs, strict=True):
        figure = f"{operation}, {variant.name}"
        try:
            seconds, low, high, result = timed(program.result(), variant.arguments, sizes)
            error = None if expected is None else difference(result, expected)
        except Exception as problem:
            record.failed(figure, problem)
            continue
        more = details | {"low": low, "high": high}
        if error is not None:
            more["error"] = error
        if variant.kept_bytes is not None:
            more["kept_bytes"] = variant.kept_bytes
        record.add(figure, seconds, "s", **more)


def timed(
    program: Callable[..., Any], arguments: Sequence[Any], sizes: Sizes
) -> tuple[float, float, float, Any]:
    """Median, least and largest seconds of one call of the operation, and its result."""
    jax.block_until_ready(program(*arguments))
    begun = time.perf_counter()
    result = jax.block_until_ready(program(*arguments))
    once = time.perf_counter() - begun
    calls = min(MOST_CALLS, max(1, round(sizes.seconds / once)))
    found = []
    for _ in range(TIMINGS):
        begun = time.perf_counter()
        for _ in range(calls):
            result = program(*arguments)
        jax.block_until_ready(result)
        found.append((time.perf_counter() - begun) / (calls * sizes.repeats))
    return statistics.median(found), min(found), max(found), result


@jax.jit
def _distance(got: Any, expected: Any) -> jax.Array:
    def one(got, expected):
        expected = expected.astype(jnp.float32)
        apart = jnp.linalg.norm((got.astype(jnp.float32) - expected).ravel())
        size = jnp.linalg.norm(expected.ravel())
        return apart / jnp.where(size > 0, size, 1)  # of a single position some derivatives are 0

    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    return jnp.stack([one(g, e) for g, e in pairs])


def difference(got: Any, expected: Any) -> list[float]:
    """‖got - expected‖ / ‖expected‖ of every array of two results."""
    return [float(x) for x in _distance(got, expected)]

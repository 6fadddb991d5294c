"""What the port does otherwise on accelerators than on a CPU, done on a CPU.

Where a way of computing pays on one kind of device only, the port names each device's own. The
kernels of cuDNN and of the TPU are in the rung of attention; all others run anywhere.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import jax_attn.nn.ops.look_up
from parity_tests import test_gradients, test_loss, test_primitives
from parity_tests.suite import pairs
from parity_tests.suite.pairs import STYLES, C
from parity_tests.suite.programs import forget_programs
from parity_tests.suite.tiers import Checks, assert_all, holds, in_jax


@contextmanager
def off_the_cpu() -> Iterator[None]:
    """Every choice by platform falls as it does where there is an accelerator."""

    def choose(*args: Any, default: Any, **_: Any) -> Any:
        return default(*args)

    forget_programs()
    try:
        with mock.patch.object(jax.lax, "platform_dependent", choose):
            yield
    finally:
        forget_programs()


def checks(seed: int, styles: Iterable[str] = STYLES) -> Checks:
    rng = np.random.default_rng([seed, 1])  # other arrays than those of the same checks elsewhere
    with off_the_cpu():
        yield from test_primitives.embedding_checks(rng)
        yield from test_primitives.layer_norm_checks(rng)
        yield from test_gradients.module_checks(rng)
        yield from test_gradients.function_checks(rng)
        for style in styles:
            name = f"{style} GPT"
            yield from test_gradients.model_checks(name, pairs.gpt(style), rng)
        yield from test_loss.function_checks(rng)
        yield from test_loss.outside_checks(rng)
        yield from test_loss.parts_checks(rng)
    yield from whole_gradient_checks(rng)


def whole_gradient_checks(rng: np.random.Generator) -> Checks:
    """An id that a batch has 4,095 times gets all of its gradient, whatever the rows' dtype.

    A bfloat16 sum stops at some 256 of them: the next one is less than half its last bit.
    """
    batch, length = 7, 585
    n = batch * length
    cotangent = rng.integers(1, 4, size=C).astype(np.float64)

    def gradient(arrays: Any, n_rows: int) -> jax.Array:
        def total(table: jax.Array) -> jax.Array:
            ids = jnp.full((batch, length), 1)
            rows = jax_attn.nn.ops.look_up.look_up(table, ids, jnp.bfloat16)
            return (rows * arrays["cotangent"].astype(jnp.bfloat16)).sum(dtype=jnp.float32)

        return jax.grad(total)(jnp.zeros((n_rows, C)))

    for n_rows in (3, 1000):
        found = in_jax(lambda a, n=n_rows: gradient(a, n), {"cotangent": cotangent}, np.float32)
        with off_the_cpu():
            elsewhere = in_jax(
                lambda a, n=n_rows: gradient(a, n), {"cotangent": cotangent}, np.float32
            )
        for where, got in (("on a CPU", found), ("elsewhere", elsewhere)):
            whole = np.zeros((n_rows, C))
            whole[1] = n * cotangent
            yield holds(f"4,095 times one of {n_rows} ids, {where}", bool((got == whole).all()))


def test_checks():
    """With the model that has least of its own on a CPU; the ladder has all of them."""
    assert_all(checks(0, ["gpt2"]))

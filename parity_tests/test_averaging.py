"""The running mean over the past, three ways, and the matrices that make it."""

import jax
import numpy as np
import pytest

import jax_attn
import torch_ref
from parity_tests.suite.pairs import BLOCK, B, C, T
from parity_tests.suite.tiers import Checks, assert_all, both_tiers

MATRICES = ("averaging_weights", "softmax_averaging_weights")
MEANS = ("running_mean_loop", "running_mean_matmul", "running_mean_softmax")


def checks(seed: int) -> Checks:
    yield from checks_of_shape(np.random.default_rng(seed), B, T, C)
    yield from checks_of_shape(np.random.default_rng(seed + 1), 1, 1, C)
    yield from checks_of_shape(np.random.default_rng(seed + 2), B, BLOCK, C)


def checks_of_shape(rng: np.random.Generator, batch: int, length: int, channels: int) -> Checks:
    arrays = {"x": rng.normal(size=(batch, length, channels)) * 3 + 1}
    for name in MATRICES:
        yield from both_tiers(
            f"{name} T={length}",
            lambda a, name=name: getattr(torch_ref, name)(length, a["x"].dtype),
            lambda a, name=name: getattr(jax_attn, name)(length, a["x"].dtype),
            arrays,
        )
    for name in MEANS:

        def port(a, name=name):
            return getattr(jax_attn, name)(a["x"])

        yield from both_tiers(
            f"{name} {batch}×{length}×{channels}",
            lambda a, name=name: getattr(torch_ref, name)(a["x"]),
            jax.jit(port) if name == "running_mean_loop" else port,  # else a program a position
            arrays,
        )


def test_checks():
    assert_all(checks(0))


@pytest.mark.parametrize(("batch", "length", "channels"), [(1, 17, 1), (3, 2, 4)])
def test_any_shape(batch, length, channels):
    assert_all(checks_of_shape(np.random.default_rng(length), batch, length, channels))

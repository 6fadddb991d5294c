"""The running mean over the past, three ways, and the matrices that make it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
        yield from both_tiers(
            f"{name} {batch}×{length}×{channels}",
            lambda a, name=name: getattr(torch_ref, name)(a["x"]),
            lambda a, name=name: getattr(jax_attn, name)(a["x"]),
            arrays,
        )


@pytest.mark.parametrize("seed", [0, 1])
def test_checks(seed):
    assert_all(checks(seed))


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 17), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_any_shape(batch, length, channels, seed):
    assert_all(checks_of_shape(np.random.default_rng(seed), batch, length, channels))

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_attn as ja

MEANS = [ja.running_mean_loop, ja.running_mean_matmul, ja.running_mean_softmax]


@jax.jit
def means(x):
    """Three ways in one program."""
    return [mean(x) for mean in MEANS]


def test_averaging_weights_of_length_three():
    expected = np.array([[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    weights = jax.jit(lambda: (ja.averaging_weights(3), ja.softmax_averaging_weights(3)))
    by_sums, by_softmax = weights()
    np.testing.assert_array_equal(by_sums, expected)
    np.testing.assert_allclose(by_softmax, expected, rtol=1e-7)


def test_running_mean_of_a_literal_sequence():
    x = np.array([[[1, 10], [3, 20], [8, 60]]], np.float32)
    for mean in means(x):
        np.testing.assert_allclose(mean, [[[1, 10], [2, 15], [4, 30]]], rtol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 19])
def test_running_means_equal_cumulative_sums(length, x64):
    x = np.random.default_rng(length).normal(size=(3, length, 5))
    expected = np.cumsum(x, axis=1) / np.arange(1, length + 1)[:, None]
    for got in means(x):
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("weights", [ja.averaging_weights, ja.softmax_averaging_weights])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_averaging_weights_have_the_dtype_asked_for(weights, dtype):
    assert jax.eval_shape(partial(weights, 4, dtype)).dtype == dtype

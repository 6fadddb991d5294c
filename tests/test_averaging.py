import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_attn as ja

MEANS = [ja.running_mean_loop, ja.running_mean_matmul, ja.running_mean_softmax]


def test_averaging_weights_of_length_three():
    expected = np.array([[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    np.testing.assert_array_equal(ja.averaging_weights(3), expected)
    np.testing.assert_allclose(ja.softmax_averaging_weights(3), expected, rtol=1e-7)


@pytest.mark.parametrize("mean", MEANS)
def test_running_mean_of_a_literal_sequence(mean):
    x = jnp.array([[[1.0, 10.0], [3.0, 20.0], [8.0, 60.0]]])
    np.testing.assert_allclose(mean(x), [[[1, 10], [2, 15], [4, 30]]], rtol=1e-6)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_running_means_equal_cumulative_sums(mean, length, x64):
    x = jax.random.normal(jax.random.key(length), (3, length, 5), jnp.float64)
    expected = np.cumsum(x, axis=1) / np.arange(1, length + 1)[:, None]
    got = mean(x)
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("weights", [ja.averaging_weights, ja.softmax_averaging_weights])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_averaging_weights_have_the_dtype_asked_for(weights, dtype):
    assert weights(4, dtype).dtype == dtype

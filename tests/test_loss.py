import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_attn as ja
from jax_attn.nn import chunked_loss

loss_of = jax.jit(ja.next_token_loss)


def int32(*values):
    return np.array(values, np.int32)


def test_uniform_logits_cost_the_log_of_the_vocabulary():
    loss = loss_of(np.zeros((2, 3, 65), np.float32), np.ones((2, 3), np.int32))
    np.testing.assert_allclose(loss, np.log(65), rtol=1e-6)


def test_closed_form_of_two_symbols():
    logits = np.array([[[0, 1]]], np.float32)
    np.testing.assert_allclose(loss_of(logits, int32([1])), np.log(1 + np.e) - 1, rtol=1e-6)


def test_ignored_targets_count_neither_above_nor_below_the_line():
    logits = np.random.default_rng(0).normal(size=(2, 5, 11)).astype(np.float32)
    targets = int32([3, -1, 10, 0, -1], [-1, -1, -1, -1, 7])
    kept = targets != -1
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(probabilities[kept, targets[kept]]).mean()
    loss, gradient = jax.jit(jax.value_and_grad(ja.next_token_loss))(logits, targets)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert (np.asarray(gradient)[~kept] == 0).all()


def test_nothing_to_count_is_nan_as_in_torch():
    assert np.isnan(loss_of(np.zeros((1, 2, 3), np.float32), int32([-1, -1])))


def test_a_target_outside_the_vocabulary_is_loud():
    for bad in (-2, 3, 1000):
        assert np.isnan(loss_of(np.zeros((1, 2, 3), np.float32), int32([0, bad])))


def test_bfloat16_logits_are_summed_in_float32():
    draw = np.random.default_rng(0)
    logits = (10 * draw.normal(size=(4, 50, 65))).astype(jnp.bfloat16)
    targets = draw.integers(0, 65, (4, 50), np.int32)
    loss = loss_of(logits, targets)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, loss_of(logits.astype(np.float32), targets), rtol=1e-6)


def test_large_logits_do_not_overflow():
    loss = loss_of(np.array([[[1e4, 0]]], np.float32), int32([1]))
    np.testing.assert_allclose(loss, 1e4)


def test_rounded_logits_have_the_derivative_of_their_own_loss():
    """In parts on an accelerator: forward and backward see the same bfloat16 logits."""
    draw = np.random.default_rng(0)
    rows, matrix = (jnp.asarray(draw.normal(size=s), jnp.bfloat16) for s in ((12, 16), (16, 40)))
    targets = jnp.asarray(draw.integers(0, 40, 12), jnp.int32)

    def of(logits_dtype):
        return chunked_loss._losses_and_derivatives(
            rows, matrix, None, targets, 5 * 128, logits_dtype
        )

    with jax.disable_jit():  # compiled, the rounding may be left out between two operations
        total, (drows, dmatrix, dbias) = of(jnp.bfloat16)
    total_of_exact_logits = jax.jit(lambda: of(jnp.float32)[0])()
    exact = np.asarray(rows, np.float64) @ np.asarray(matrix, np.float64)
    rounded = np.asarray(jnp.asarray(exact, jnp.float32).astype(jnp.bfloat16), np.float64)
    weights = np.exp(rounded) / np.exp(rounded).sum(-1, keepdims=True)
    assert float(total) == pytest.approx(-np.log(weights[np.arange(12), targets]).sum(), rel=1e-6)
    assert float(total_of_exact_logits) != pytest.approx(float(total), rel=1e-5)
    dlogits = weights - np.eye(40)[np.asarray(targets)]
    close = {"rtol": 2**-6, "atol": 2**-6}  # products of bfloat16
    np.testing.assert_allclose(
        np.asarray(drows, np.float64), dlogits @ np.asarray(matrix, np.float64).T, **close
    )
    np.testing.assert_allclose(dmatrix, np.asarray(rows, np.float64).T @ dlogits, **close)
    assert dbias is None

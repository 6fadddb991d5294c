from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
from jax_attn.nn import blocked
from jax_attn.nn.blocked import QUERY_BLOCK, sequences_at_a_time
from jax_attn.nn.flash import Accelerator, choose_implementation
from tests.small_models import filled

B, T, S, H, K = 2, 7, 5, 3, 5
C = H * K


weights_of = jax.jit(ja.attention_weights, static_argnames=("scale", "axis"))


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def float32(*values):
    return jnp.asarray(np.array(values, np.float32))


def softmax(scores):
    """Of the last axis, in NumPy."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_causal_mask_of_length_three():
    expected = [[True, False, False], [True, True, False], [True, True, True]]
    np.testing.assert_array_equal(ja.causal_mask(3), expected)


def test_attention_weights_closed_form():
    """Scores 0 and 1 give [1, e] / (1 + e)."""
    query, key = float32([1]), float32([0], [1])
    expected = np.array([[1, np.e]]) / (1 + np.e)
    np.testing.assert_allclose(weights_of(query, key), expected, rtol=1e-6)


def test_scale_defaults_to_the_inverse_root_of_the_head_size():
    query, key = float32([0.5] * 4), float32([0] * 4, [1] * 4)
    # The score is 2; scaled by 4 ** -0.5 it is 1.
    for options, score in (({}, 1), ({"scale": 1.0}, 2)):
        expected = np.array([[1, np.e**score]]) / (1 + np.e**score)
        np.testing.assert_allclose(weights_of(query, key, **options), expected, rtol=1e-6)


def test_masked_keys_get_exactly_nothing_and_rows_sum_to_one():
    mask = np.tril(np.ones((T, T), bool))
    weights = weights_of(normal(0, B, H, T, K), normal(1, B, H, T, K), mask=jnp.asarray(mask))
    weights = np.asarray(weights)
    assert (weights[..., ~mask] == 0).all()
    assert (weights[..., mask] > 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)


def test_a_row_that_may_see_nothing_is_nan_and_spares_the_others():
    mask = jnp.asarray(np.array([[True, True], [False, False]]))
    weights = np.asarray(weights_of(normal(0, 2, K), normal(1, 2, K), mask=mask))
    assert np.isfinite(weights[0]).all()
    assert np.isnan(weights[1]).all()


def test_axis_minus_two_normalises_columns():
    weights = np.asarray(weights_of(normal(0, T, K), normal(1, S, K), axis=-2))
    np.testing.assert_allclose(weights.sum(-2), 1, rtol=1e-6)


def test_attend_of_literal_matrices():
    weights, value = float32([1, 0], [0.25, 0.75]), float32([4, 8], [0, 16])
    np.testing.assert_array_equal(ja.attend(weights, value), [[4, 8], [1, 14]])


def output_and_derivatives(implementation, query, key, value, out):
    attention = partial(ja.dot_product_attention, implementation=implementation)
    result, pull_back = jax.vjp(attention, query, key, value)
    return result, *pull_back(out)


@pytest.mark.parametrize("length", [1, QUERY_BLOCK, QUERY_BLOCK + 1, 2 * QUERY_BLOCK + 45])
def test_blocked_attention_is_explicit_attention(length, x64):
    query, key, value, out = (normal(i, 2, length, K, dtype=jnp.float64) for i in range(4))

    @jax.jit
    def both(*arrays):
        return [output_and_derivatives(how, *arrays) for how in ("blocked", "explicit")]

    for got, expected in zip(*both(query, key, value, out), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("n_sequences", "length", "cores", "at_a_time"),
    [
        (48, 256, 2, 48),  # 12,288 positions: few enough for two cores
        (48, 256, 1, 8),
        (48, 1024, 2, 4),
        (7, 4096, 2, 1),  # a prime number
        (6, 8192, 4, 3),
    ],
)
def test_how_many_sequences_are_taken_at_a_time(n_sequences, length, cores, at_a_time):
    assert sequences_at_a_time(n_sequences, length, cores) == at_a_time


def test_attention_by_groups_is_that_of_all_at_once(monkeypatch, x64):
    arrays = [normal(i, 3, 2, 70, K, dtype=jnp.float64) for i in range(4)]

    def compiled():
        return jax.jit(partial(output_and_derivatives, "blocked"))(*arrays)

    at_once = compiled()
    monkeypatch.setattr(blocked, "sequences_at_a_time", lambda *_: 2)
    for got, expected in zip(compiled(), at_once, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)


def test_causal_attention_wants_as_many_keys_as_queries():
    with pytest.raises(ValueError, match="5 keys for 7 queries"):
        ja.dot_product_attention(normal(0, T, K), normal(1, S, K), normal(2, S, K))


def test_kernels_are_for_causal_attention():
    arrays = [normal(i, T, K) for i in range(3)]
    with pytest.raises(ValueError, match="'blocked' is for causal attention only"):
        ja.dot_product_attention(*arrays, causal=False, implementation="blocked")


def test_unknown_implementation_is_named(unchecked):
    with pytest.raises(ValueError, match="blocky"):
        ja.dot_product_attention(
            normal(0, T, K), normal(1, T, K), normal(2, T, K), implementation="blocky"
        )


@jax.jit
def weights_and_output(module, x, context=None):
    return module.weights(x, context), module(x, context)


called = nnx.jit(lambda module, x: module(x))  # once in training, its random streams go on


def product(x, linear):
    return np.asarray(x) @ np.asarray(linear.kernel[...])


class TestHead:
    def head(self, **options):
        return filled(lambda: ja.Head(C, K, rngs=nnx.Rngs(0), **options))

    def test_is_three_linears_without_bias(self):
        head = self.head()
        for linear in (head.key, head.query, head.value):
            assert isinstance(linear, nnx.Linear)
            assert linear.bias is None
            assert linear.kernel.shape == (C, K)

    def test_output_is_weights_times_values(self):
        head, x = self.head(), normal(1, B, T, C)
        weights, output = weights_and_output(head, x)
        expected = np.asarray(weights) @ product(x, head.value)
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)

    def test_no_position_depends_on_a_later_one(self):
        """Causality by gradient: d out_t / d x_s is 0 for s > t and not for s <= t."""
        head, x = self.head(), normal(1, 1, T, C)
        jacobian = np.asarray(jax.jit(jax.jacrev(head))(x))[0, :, :, 0]  # [T K T C]
        size = np.abs(jacobian).max(axis=(1, 3))
        assert (size[np.triu_indices(T, 1)] == 0).all()
        assert (size[np.tril_indices(T)] > 0).all()

    def test_an_encoder_sees_everything(self):
        head, x = self.head(causal=False), normal(1, B, T, C)
        weights = np.asarray(weights_and_output(head, x)[0])
        assert (weights > 0).all()
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)

    def test_cross_attention_takes_keys_and_values_from_a_context_of_another_length(self):
        head, x, context = self.head(), normal(1, B, T, C), normal(2, B, S, C)
        weights, output = map(np.asarray, weights_and_output(head, x, context))
        assert weights.shape == (B, T, S)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
        scores = product(x, head.query) @ product(context, head.key).swapaxes(1, 2) * K**-0.5
        np.testing.assert_allclose(weights, softmax(scores), rtol=1e-5)
        expected = weights @ product(context, head.value)
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)

    def test_dropout_falls_on_the_weights_once_training(self):
        head, x = self.head(dropout_rate=0.5), normal(1, B, T, C)
        np.testing.assert_array_equal(called(head, x), called(head, x))
        head.train()
        first, second = np.asarray(called(head, x)), np.asarray(called(head, x))
        assert not np.array_equal(first, second)
        # Position 0 looks at itself alone: its weight is dropped or doubled.
        ratio = first[:, 0] / product(x, head.value)[:, 0]
        np.testing.assert_allclose(
            ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-5, atol=0
        )
        assert set(np.round(ratio[:, 0], 4)) <= {0.0, 2.0}


class TestMultiHeadAttention:
    def attention(self, **options):
        return filled(lambda: ja.MultiHeadAttention(C, H, rngs=nnx.Rngs(0), **options))

    def test_one_matrix_for_query_key_and_value(self):
        assert self.attention().qkv.kernel.shape == (C, 3 * C)

    @pytest.mark.parametrize(("causal", "qkv_bias"), [(True, False), (False, True)])
    def test_is_single_heads_side_by_side(self, causal, qkv_bias, x64):
        attention = self.attention(causal=causal, qkv_bias=qkv_bias, param_dtype=jnp.float64)
        x = normal(1, B, T, C, dtype=jnp.float64)
        projected = product(x, attention.qkv)
        if qkv_bias:
            projected += np.asarray(attention.qkv.bias[...])
        query, key, value = np.split(projected, 3, axis=-1)
        outputs, weights = [], []
        for head in range(H):
            part = np.s_[..., head * K : (head + 1) * K]
            scores = query[part] @ key[part].swapaxes(1, 2) * K**-0.5
            if causal:
                scores[:, np.triu(np.ones((T, T), bool), 1)] = -np.inf
            weights.append(softmax(scores))
            outputs.append(weights[-1] @ value[part])
        got_weights, got = weights_and_output(attention, x)
        np.testing.assert_allclose(got_weights, np.stack(weights, 1), atol=1e-14)
        expected = product(np.concatenate(outputs, -1), attention.proj)
        expected += np.asarray(attention.proj.bias[...])
        np.testing.assert_allclose(got, expected, atol=1e-13)

    def test_cross_attention_sees_the_whole_context(self):
        attention, x, context = self.attention(), normal(1, B, T, C), normal(2, B, S, C)
        weights, output = map(np.asarray, weights_and_output(attention, x, context))
        assert weights.shape == (B, H, T, S)
        assert (weights > 0).all()
        assert output.shape == (B, T, C)
        last_moved = np.array(context)
        last_moved[:, -1] += 1.0
        _, moved = weights_and_output(attention, x, jnp.asarray(last_moved))
        assert not np.allclose(output[:, 0], moved[:, 0])

    def test_heads_must_divide_the_channels(self):
        with pytest.raises(ValueError, match="n_embd 15 is not divisible by n_head 4"):
            ja.MultiHeadAttention(15, 4, rngs=nnx.Rngs(0))

    def test_dropout_only_while_training(self):
        attention, x = self.attention(dropout_rate=0.5), normal(1, B, T, C)
        without = np.asarray(called(self.attention(), x))
        np.testing.assert_array_equal(called(attention, x), without)
        attention.train()
        assert not np.array_equal(called(attention, x), called(attention, x))
        attention.eval()
        np.testing.assert_array_equal(called(attention, x), without)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_modules_compute_in_the_dtype_asked_for(dtype):
    x = normal(1, B, T, C)
    for build in (
        lambda: ja.Head(C, K, rngs=nnx.Rngs(0), dtype=dtype),
        lambda: ja.MultiHeadAttention(C, H, rngs=nnx.Rngs(0), dtype=dtype),
    ):
        module = nnx.eval_shape(build)
        assert jax.eval_shape(lambda module, x: module(x), module, x).dtype == dtype
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(module))


H100 = Accelerator("cuda", compute_capability=9.0)
A100 = Accelerator("cuda", compute_capability=8.0)
V100 = Accelerator("cuda", compute_capability=7.0)
TPU = Accelerator("tpu")


@pytest.mark.parametrize(
    ("device", "dtype", "length", "head_size", "chosen"),
    [
        (None, "bfloat16", 1024, 64, "blocked"),
        (H100, "bfloat16", 1024, 64, "cudnn"),
        (H100, "bfloat16", 1023, 64, "cudnn"),
        (H100, "bfloat16", 1024, 256, "cudnn"),
        (A100, "bfloat16", 1024, 256, "blocked"),
        (A100, "bfloat16", 1024, 60, "blocked"),
        (V100, "bfloat16", 1024, 64, "blocked"),
        (H100, "float32", 1024, 64, "blocked"),
        (TPU, "float32", 1024, 64, "tpu_flash"),
        (TPU, "bfloat16", 1024, 64, "tpu_flash"),
        (TPU, "bfloat16", 1000, 64, "blocked"),
        (TPU, "bfloat16", 1024, 192, "blocked"),
        (Accelerator("rocm"), "bfloat16", 1024, 64, "blocked"),
        *((device, "bfloat16", 0, 64, "explicit") for device in (None, H100, TPU)),
        *((device, "bfloat16", 128, 64, "explicit") for device in (None, H100, TPU)),
    ],
)
def test_the_choice_of_a_kernel_has_a_reason(device, dtype, length, head_size, chosen):
    implementation, reason = choose_implementation(length, head_size, dtype, device)
    assert implementation == chosen
    assert len(reason) > 10

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

B, T, S, H, K = 2, 7, 5, 3, 5
C = H * K


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def test_causal_mask_of_length_three():
    expected = [[True, False, False], [True, True, False], [True, True, True]]
    np.testing.assert_array_equal(ja.causal_mask(3), expected)


def test_attention_weights_closed_form():
    """Scores 0 and 1 give [1, e] / (1 + e)."""
    query, key = jnp.array([[1.0]]), jnp.array([[0.0], [1.0]])
    expected = np.array([[1, np.e]]) / (1 + np.e)
    np.testing.assert_allclose(ja.attention_weights(query, key), expected, rtol=1e-6)


def test_scale_defaults_to_the_inverse_root_of_the_head_size():
    query, key = jnp.full((1, 4), 0.5), jnp.stack([jnp.zeros(4), jnp.full(4, 1.0)])
    # The score is 2; scaled by 4 ** -0.5 it is 1.
    np.testing.assert_allclose(
        ja.attention_weights(query, key), np.array([[1, np.e]]) / (1 + np.e), rtol=1e-6
    )
    np.testing.assert_allclose(
        ja.attention_weights(query, key, scale=1.0),
        np.array([[1, np.e**2]]) / (1 + np.e**2),
        rtol=1e-6,
    )


def test_masked_keys_get_exactly_nothing_and_rows_sum_to_one():
    weights = ja.attention_weights(
        normal(0, B, H, T, K), normal(1, B, H, T, K), mask=ja.causal_mask(T)
    )
    above = np.triu(np.ones((T, T), bool), 1)
    assert (np.asarray(weights)[..., above] == 0).all()
    assert (np.asarray(weights)[..., ~above] > 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)


def test_a_row_that_may_see_nothing_is_nan_and_spares_the_others():
    mask = jnp.array([[True, True], [False, False]])
    weights = ja.attention_weights(normal(0, 2, K), normal(1, 2, K), mask=mask)
    assert np.isfinite(weights[0]).all()
    assert np.isnan(weights[1]).all()


def test_axis_minus_two_normalises_columns():
    weights = ja.attention_weights(normal(0, T, K), normal(1, S, K), axis=-2)
    np.testing.assert_allclose(weights.sum(-2), 1, rtol=1e-6)


def test_attend_of_literal_matrices():
    weights = jnp.array([[1.0, 0.0], [0.25, 0.75]])
    value = jnp.array([[4.0, 8.0], [0.0, 16.0]])
    np.testing.assert_array_equal(ja.attend(weights, value), [[4, 8], [1, 14]])


@pytest.mark.parametrize("length", [1, 7, QUERY_BLOCK, QUERY_BLOCK + 1, 2 * QUERY_BLOCK + 45])
def test_blocked_attention_is_explicit_attention(length, x64):
    query, key, value, out = (normal(i, 2, length, K, dtype=jnp.float64) for i in range(4))

    def run(implementation):
        def attention(*qkv):
            return ja.dot_product_attention(*qkv, implementation=implementation)

        result, pull_back = jax.vjp(attention, query, key, value)
        return result, *pull_back(out)

    for got, expected in zip(run("blocked"), run("explicit"), strict=True):
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

    def run():
        result, pull_back = jax.vjp(
            partial(ja.dot_product_attention, implementation="blocked"), *arrays[:3]
        )
        return result, *pull_back(arrays[3])

    at_once = run()
    monkeypatch.setattr(blocked, "sequences_at_a_time", lambda *_: 2)
    for got, expected in zip(run(), at_once, strict=True):
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


class TestHead:
    def head(self, **options):
        return ja.Head(C, K, rngs=nnx.Rngs(0), **options)

    def test_is_three_linears_without_bias(self):
        head = self.head()
        for linear in (head.key, head.query, head.value):
            assert isinstance(linear, nnx.Linear)
            assert linear.bias is None
            assert linear.kernel.shape == (C, K)

    def test_output_is_weights_times_values(self):
        head, x = self.head(), normal(1, B, T, C)
        np.testing.assert_allclose(head(x), head.weights(x) @ head.value(x), rtol=1e-6)

    def test_no_position_depends_on_a_later_one(self):
        """Causality by gradient: d out_t / d x_s is 0 for s > t and not for s <= t."""
        head, x = self.head(), normal(1, 1, T, C)
        jacobian = jax.jacrev(head)(x)[0, :, :, 0]  # [T K T C]
        size = np.abs(jacobian).max(axis=(1, 3))
        assert (size[np.triu_indices(T, 1)] == 0).all()
        assert (size[np.tril_indices(T)] > 0).all()

    def test_an_encoder_sees_everything(self):
        head, x = self.head(causal=False), normal(1, B, T, C)
        weights = np.asarray(head.weights(x))
        assert (weights > 0).all()
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)

    def test_cross_attention_takes_keys_and_values_from_a_context_of_another_length(self):
        head, x, context = self.head(), normal(1, B, T, C), normal(2, B, S, C)
        weights = head.weights(x, context)
        assert weights.shape == (B, T, S)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
        scores = head.query(x) @ head.key(context).swapaxes(1, 2) * K**-0.5
        np.testing.assert_allclose(weights, jax.nn.softmax(scores), rtol=1e-5)
        np.testing.assert_allclose(
            head(x, context), weights @ head.value(context), rtol=1e-5, atol=1e-6
        )

    def test_dropout_falls_on_the_weights_once_training(self):
        head, x = self.head(dropout_rate=0.5), normal(1, B, T, C)
        np.testing.assert_array_equal(head(x), head(x))
        head.train()
        assert not np.array_equal(head(x), head(x))
        # Position 0 looks at itself alone: its weight is dropped or doubled.
        ratio = np.asarray(head(x)[:, 0] / head.value(x)[:, 0])
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-5)
        assert set(np.round(ratio[:, 0], 4)) <= {0.0, 2.0}


class TestMultiHeadAttention:
    def attention(self, **options):
        return ja.MultiHeadAttention(C, H, rngs=nnx.Rngs(0), **options)

    def test_one_matrix_for_query_key_and_value(self):
        assert self.attention().qkv.kernel.shape == (C, 3 * C)

    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("qkv_bias", [True, False])
    def test_is_single_heads_side_by_side(self, causal, qkv_bias, x64):
        attention = self.attention(causal=causal, qkv_bias=qkv_bias, param_dtype=jnp.float64)
        x = normal(1, B, T, C, dtype=jnp.float64)
        if qkv_bias:
            attention.qkv.bias[...] = normal(3, 3 * C, dtype=jnp.float64)
        query, key, value = np.split(np.asarray(attention.qkv(x)), 3, axis=-1)
        outputs, weights = [], []
        for head in range(H):
            part = np.s_[..., head * K : (head + 1) * K]
            mask = ja.causal_mask(T) if causal else None
            wei = ja.attention_weights(jnp.asarray(query[part]), jnp.asarray(key[part]), mask=mask)
            weights.append(wei)
            outputs.append(wei @ value[part])
        np.testing.assert_allclose(attention.weights(x), np.stack(weights, 1), atol=1e-14)
        expected = attention.proj(jnp.concatenate(outputs, -1))
        np.testing.assert_allclose(attention(x), expected, atol=1e-13)

    def test_cross_attention_sees_the_whole_context(self):
        attention, x, context = self.attention(), normal(1, B, T, C), normal(2, B, S, C)
        weights = np.asarray(attention.weights(x, context))
        assert weights.shape == (B, H, T, S)
        assert (weights > 0).all()
        assert attention(x, context).shape == (B, T, C)
        moved = attention(x, context.at[:, -1].add(1.0))
        assert not np.allclose(attention(x, context)[:, 0], moved[:, 0])

    def test_heads_must_divide_the_channels(self):
        with pytest.raises(ValueError, match="n_embd 15 is not divisible by n_head 4"):
            ja.MultiHeadAttention(15, 4, rngs=nnx.Rngs(0))

    def test_dropout_only_while_training(self):
        attention, x = self.attention(dropout_rate=0.5), normal(1, B, T, C)
        without = ja.MultiHeadAttention(C, H, rngs=nnx.Rngs(0))
        np.testing.assert_array_equal(attention(x), without(x))
        attention.train()
        assert not np.array_equal(attention(x), attention(x))
        attention.eval()
        np.testing.assert_array_equal(attention(x), without(x))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_modules_compute_in_the_dtype_asked_for(dtype):
    x = normal(1, B, T, C)
    assert ja.Head(C, K, rngs=nnx.Rngs(0), dtype=dtype)(x).dtype == dtype
    attention = ja.MultiHeadAttention(C, H, rngs=nnx.Rngs(0), dtype=dtype)
    assert attention(x).dtype == dtype
    assert attention.qkv.kernel.dtype == jnp.float32


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

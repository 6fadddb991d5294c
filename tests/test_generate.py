import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
from jax_attn.generate import loop, stream
from jax_attn.generate.loop import NOISE_STEPS, extend
from jax_attn.generate.sampling import first_largest, sample
from tests import uncached
from tests.small_models import KEY, MODELS, NAMES, TOP_3, T, V, make, prompts


def same_tokens(model, prompt, n, **options):
    got = ja.generate(model, prompt, n, key=KEY, **options)
    assert got.shape == (prompt.shape[0], prompt.shape[1] + n)
    np.testing.assert_array_equal(got, uncached.generate(model, prompt, n, key=KEY, **options))


@pytest.mark.parametrize("prompt_length", [1, T - 1, T, T + 5])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, TOP_3])
def test_equals_the_growing_context_also_past_block_size(prompt_length, options):
    same_tokens(MODELS["lecture"], prompts(3, prompt_length), 20, **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prompt_length", [3, T + 5])
def test_equals_it_in_every_model(name, prompt_length):
    same_tokens(MODELS[name], prompts(3, prompt_length), 20, **TOP_3)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("lecture", jnp.float32),
        ("lecture", jnp.float64),
        ("gpt2", jnp.float32),
        ("head", jnp.float64),
    ],
)
def test_equals_it_for_a_thousand_prompts(name, dtype, options, x64):
    same_tokens(make(name, param_dtype=dtype), prompts(1_000, 3), 12, **options)


def test_equals_it_where_noise_is_drawn_anew():
    """More tokens than noise is drawn for at a time, the border inside the window and past it."""
    for block_size in (NOISE_STEPS + 9, NOISE_STEPS - 9):
        config = ja.GPTConfig(V, block_size, 1, 3, 15)
        same_tokens(ja.GPT(config, rngs=nnx.Rngs(0)), prompts(2, 1), 2 * NOISE_STEPS + 5)


def test_equals_it_where_noise_is_drawn_for_fewer_tokens(monkeypatch):
    """As for many rows of many ids."""
    extend.clear_cache()
    monkeypatch.setattr(loop, "MOST_NOISE", 3 * 2 * V)
    same_tokens(MODELS["lecture"], prompts(2, 3), 20)
    extend.clear_cache()


@pytest.mark.parametrize("name", ["lecture", "gpt2", "head"])
@pytest.mark.parametrize(
    ("dtypes", "tolerance"),
    [
        ({"param_dtype": jnp.float64}, 1e-13),
        ({"param_dtype": jnp.float32}, 1e-5),
        ({"dtype": jnp.bfloat16}, 0.05),
    ],
    ids=["float64", "float32", "bfloat16"],
)
def test_logits_of_single_steps_are_those_of_a_whole_pass(name, dtypes, tolerance, x64):
    """Keys and values rounded to bfloat16 are the same in both; the sums around them differ."""
    model, idx = make(name, **dtypes), prompts(2, T)
    cache = tuple(layer.with_room(T) for layer in model.prefill(idx[:, :3]))
    step = jax.jit(lambda token, cache, position: model.step(token, cache, position))
    logits = []
    for t in range(3, T):
        found, cache = step(idx[:, t : t + 1], cache, jnp.int32(t))
        logits.append(found[:, 0])
    np.testing.assert_allclose(
        np.stack(logits, 1).astype(np.float64),
        np.asarray(model(idx)[:, 3:], np.float64),
        rtol=0,
        atol=tolerance,
    )


def test_a_chunk_at_a_time_is_the_same_text_from_the_same_program():
    prompt = prompts(2, 3)
    for options in ({}, {"temperature": 0.0}):
        whole = ja.generate(MODELS["lecture"], prompt, 40, key=KEY, **options)
        before = extend._jitted._cache_size()
        for size in (1, 7, 40, 100):
            chunks = list(stream(MODELS["lecture"], prompt, 40, size, key=KEY, **options))
            assert {c.shape[1] for c in chunks[:-1]} <= {size}
            np.testing.assert_array_equal(np.concatenate([prompt, *chunks], axis=1), whole)
        assert extend._jitted._cache_size() == before


def test_an_id_outside_the_vocabulary_poisons_what_sees_it():
    prompt = jnp.array([[V, 1]])
    same_tokens(MODELS["lecture"], prompt, 5, temperature=0.0)


def test_the_first_of_equals_is_the_largest_and_nan_is_larger_than_all():
    scores = jnp.array([[1.0, 3.0, 3.0], [-jnp.inf] * 3, [1.0, jnp.nan, 5.0], [jnp.inf, 1.0, 2.0]])
    np.testing.assert_array_equal(first_largest(scores), jnp.argmax(scores, axis=-1))


def test_the_key_decides():
    prompt = jnp.zeros((1, 1), jnp.int32)
    first, again, other = (
        ja.generate(MODELS["lecture"], prompt, 30, key=jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_rows_of_a_batch_differ():
    tokens = ja.generate(MODELS["lecture"], jnp.zeros((4, 1), jnp.int32), 30, key=KEY)
    assert len({tuple(row) for row in np.asarray(tokens)}) == 4


def test_a_training_model_still_samples_without_dropout_and_stays_in_training():
    model = ja.GPT(ja.GPTConfig(11, 8, 1, 3, 15, dropout_rate=0.5), rngs=nnx.Rngs(1))
    prompt = jnp.zeros((1, 1), jnp.int32)
    expected = ja.generate(model, prompt, 20, key=KEY, temperature=0.0)
    model.train()
    np.testing.assert_array_equal(
        ja.generate(model, prompt, 20, key=KEY, temperature=0.0), expected
    )
    assert not model.blocks[0].ffwd.dropout.deterministic


def gumbel(logits):
    return jax.random.gumbel(KEY, logits.shape)


def test_samples_have_the_softmaxs_frequencies():
    logits = jnp.tile(jnp.log(jnp.array([0.1, 0.2, 0.7])), (20_000, 1))
    frequencies = np.bincount(sample(logits, gumbel(logits)), minlength=3) / 20_000
    np.testing.assert_allclose(frequencies, [0.1, 0.2, 0.7], atol=0.015)


def test_top_k_keeps_the_likeliest():
    logits = jnp.tile(jnp.array([0.0, 3.0, 1.0, 2.0]), (1_000, 1))
    assert set(np.asarray(sample(logits, gumbel(logits), top_k=2))) == {1, 3}
    assert set(np.asarray(sample(logits, gumbel(logits), top_k=1))) == {1}
    assert set(np.asarray(sample(logits, gumbel(logits), top_k=100))) == {0, 1, 2, 3}


def test_no_new_tokens_is_the_prompt():
    prompt = jnp.array([[1, 2, 3]])
    np.testing.assert_array_equal(ja.generate(MODELS["lecture"], prompt, 0, key=KEY), prompt)


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (jnp.zeros((1, 0), jnp.int32), {}, "T0 of at least 1"),
        (jnp.zeros((1, 1), jnp.int32), {"temperature": -1.0}, "temperature -1.0 is negative"),
        (jnp.zeros((1, 1), jnp.int32), {"top_k": 0}, "top_k 0 keeps no token"),
    ],
)
def test_impossible_requests_are_refused(tokens, options, message):
    with pytest.raises(ValueError, match=message):
        ja.generate(MODELS["lecture"], tokens, 3, key=KEY, **options)

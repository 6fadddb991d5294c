import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
from jax_attn.generate import loop, stream
from jax_attn.generate.loop import NOISE_STEPS, extend
from jax_attn.generate.sampling import first_largest, sample
from tests.small_models import GREEDY, KEY, TOP_3, N, T, V, filled, make, model_of, prompts

logits_of = jax.jit(lambda model, window: model(window))


@jax.jit
def drawn(step, logits):
    return jax.random.categorical(jax.random.fold_in(KEY, step), logits, axis=-1)


def lecture_tokens(model, prompt, n, *, temperature=1.0, top_k=None):
    """As the lecture writes it: the model is run on the whole context for every token."""
    length, width = prompt.shape[1], model.block_size
    text = np.pad(prompt, ((0, 0), (0, max(n, width))))
    for step in range(n):
        start = max(length + step - width, 0)
        # What is past the context's end is not seen by its last position.
        logits = logits_of(model, text[:, start : start + width])
        logits = np.asarray(logits)[:, length + step - 1 - start]
        if temperature == 0:
            chosen = np.argmax(logits, axis=-1)
        else:
            logits = logits / np.float32(temperature)
            if top_k is not None:
                kept = np.sort(logits, axis=-1)[:, -top_k, None]
                logits = np.where(logits < kept, -np.inf, logits)
            chosen = drawn(np.int32(step), logits)
        text[:, length + step] = chosen
    return text[:, : length + n]


def same_tokens(model, prompt, n=N, **options):
    got = ja.generate(model, jax.device_put(prompt), n, key=KEY, **options)
    assert got.shape == (prompt.shape[0], prompt.shape[1] + n)
    np.testing.assert_array_equal(got, lecture_tokens(model, prompt, n, **options))


@pytest.mark.parametrize("prompt_length", [1, T - 1, T, T + 5])
@pytest.mark.parametrize("options", [{}, GREEDY, TOP_3])
def test_equals_the_growing_context_also_past_block_size(prompt_length, options):
    same_tokens(model_of("lecture"), prompts(prompt_length), **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [("two layers", GREEDY), ("head", TOP_3), ("bigram", GREEDY), ("plain", TOP_3)],
)
def test_equals_it_in_every_model(name, options):
    for prompt_length in (3, T + 5):
        same_tokens(model_of(name), prompts(prompt_length), **options)


@pytest.mark.parametrize(
    ("name", "dtype", "options"), [("gpt2", jnp.float32, GREEDY), ("head", jnp.float64, {})]
)
def test_equals_it_for_a_thousand_prompts(name, dtype, options, x64):
    same_tokens(make(name, param_dtype=dtype), prompts(3, rows=1_000), 12, **options)


def test_equals_it_where_noise_is_drawn_anew():
    """More tokens than noise is drawn for at a time."""
    same_tokens(model_of("bigram"), prompts(1), 2 * NOISE_STEPS + 5)


def test_equals_it_where_noise_is_drawn_for_fewer_tokens(monkeypatch):
    """As for many rows of many ids; the borders inside the window and past it.

    No other test has this model, so none finds its program.
    """
    monkeypatch.setattr(loop, "MOST_NOISE", 3 * 2 * V)
    model = filled(lambda: ja.SingleHeadLanguageModel(V, T + 1, 15, 5, rngs=nnx.Rngs(0)))
    same_tokens(model, prompts(3, rows=2))


@pytest.mark.parametrize(
    ("name", "dtypes", "tolerance"),
    [
        ("head", {"param_dtype": jnp.float64}, 1e-13),
        ("two layers", {"param_dtype": jnp.float32}, 1e-5),
        ("lecture", {"dtype": jnp.bfloat16}, 0.05),
    ],
    ids=["float64", "float32", "bfloat16"],
)
def test_logits_of_single_steps_are_those_of_a_whole_pass(name, dtypes, tolerance, x64):
    """Keys and values rounded to bfloat16 are the same in both; the sums around them differ."""

    @jax.jit
    def both(model, idx):
        cache = tuple(layer.with_room(T) for layer in model.prefill(idx[:, :3]))

        def step(cache, position):
            token = jax.lax.dynamic_slice_in_dim(idx, position, 1, axis=1)
            logits, cache = model.step(token, cache, position)
            return cache, logits[:, 0]

        _, stepped = jax.lax.scan(step, cache, jnp.arange(3, T, dtype=jnp.int32))
        return stepped.swapaxes(0, 1), model(idx)[:, 3:]

    got, expected = both(make(name, **dtypes), prompts(T))
    np.testing.assert_allclose(
        np.asarray(got, np.float64), np.asarray(expected, np.float64), rtol=0, atol=tolerance
    )


def test_a_chunk_at_a_time_is_the_same_text_from_the_same_program():
    model, prompt = model_of("lecture"), jax.device_put(prompts(3))
    for options in ({}, GREEDY):
        whole = ja.generate(model, prompt, N, key=KEY, **options)
        before = extend._jitted._cache_size()
        for size in (1, 7, N, 100):
            chunks = list(stream(model, prompt, N, size, key=KEY, **options))
            assert {c.shape[1] for c in chunks[:-1]} <= {size}
            np.testing.assert_array_equal(np.concatenate([prompt, *chunks], axis=1), whole)
        assert extend._jitted._cache_size() == before


@pytest.mark.parametrize("options", [GREEDY, {}, {"top_k": 2}], ids=["greedy", "drawn", "top_k"])
def test_in_a_program_no_token_follows_an_id_outside_the_vocabulary(options):
    """Which cannot be refused there. The other rows are what they are without it."""
    model, prompt = model_of("lecture"), prompts(3)
    expected = np.array(ja.generate(model, jnp.asarray(prompt), N, key=KEY, **options))
    prompt[0, 0] = expected[0, 0] = V
    expected[0, 3:] = -1

    @jax.jit
    def generated(prompt):
        return ja.generate(model, prompt, N, key=KEY, **options)

    np.testing.assert_array_equal(generated(prompt), expected)


def test_the_first_of_equals_is_the_largest_and_none_of_a_row_with_nan():
    scores = np.array([[1, 3, 3], [-np.inf] * 3, [1, np.nan, 5], [np.inf, 1, 2]], np.float32)
    np.testing.assert_array_equal(jax.jit(first_largest)(scores), [1, 0, -1, 0])


def test_the_key_decides_and_rows_of_a_batch_differ():
    prompt = jnp.asarray(np.zeros((3, 3), np.int32))
    first, again, other = (
        np.asarray(ja.generate(model_of("lecture"), prompt, N, key=jax.random.key(seed)))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({tuple(row) for row in first}) == 3


def test_a_training_model_still_samples_without_dropout_and_stays_in_training():
    model, prompt = make("dropout"), prompts(3)
    expected = lecture_tokens(model, prompt, N, **GREEDY)
    model.train()
    got = ja.generate(model, jax.device_put(prompt), N, key=KEY, **GREEDY)
    np.testing.assert_array_equal(got, expected)
    assert not model.blocks[0].ffwd.dropout.deterministic


def draws(logits, rows, **options):
    """The tokens of so many rows of the same logits."""

    @jax.jit
    def tokens(logits):
        return sample(logits, jax.random.gumbel(KEY, logits.shape), **options)

    return np.asarray(tokens(np.tile(np.array(logits, np.float32), (rows, 1))))


def test_samples_have_the_softmaxs_frequencies():
    tokens = draws(np.log([0.1, 0.2, 0.7]), 20_000)
    frequencies = np.bincount(tokens, minlength=3) / 20_000
    np.testing.assert_allclose(frequencies, [0.1, 0.2, 0.7], atol=0.015)


def test_top_k_keeps_the_likeliest():
    for top_k, kept in ((2, {1, 3}), (1, {1}), (100, {0, 1, 2, 3})):
        assert set(draws([0, 3, 1, 2], 1_000, top_k=top_k)) == kept


def test_no_new_tokens_is_the_prompt():
    prompt = jnp.asarray(np.array([[1, 2, 3]], np.int32))
    np.testing.assert_array_equal(ja.generate(model_of("bigram"), prompt, 0, key=KEY), prompt)


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (np.zeros((1, 0), np.int32), {}, "T0 of at least 1"),
        (np.zeros((1, 1), np.int32), {"temperature": -1.0}, "temperature is -1.0; it must"),
        (np.zeros((1, 1), np.int32), {"top_k": 0}, "top_k is 0; it must"),
    ],
)
def test_impossible_requests_are_refused(tokens, options, message):
    with pytest.raises(ValueError, match=message):
        ja.generate(model_of("bigram"), jnp.asarray(tokens), 3, key=KEY, **options)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
from jax_attn.generate import loop, stream
from jax_attn.generate.loop import NOISE_STEPS, extend
from jax_attn.generate.sampling import first_largest, likeliest, sample
from tests.small_models import GREEDY, KEY, TOP_3, N, T, V, filled, make, model_of, prompts

logits_of = jax.jit(lambda model, window: model(window))


@jax.jit
def drawn(step, logits):
    return jax.random.categorical(jax.random.fold_in(KEY, step), logits, axis=-1)


def lecture_tokens(model, prompt, n, *, temperature=1.0, top_k=None, top_p=None):
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
            if top_p is not None:
                logits = np.where(likeliest_by_hand(logits, top_p), logits, -np.inf)
            chosen = drawn(np.int32(step), logits)
        text[:, length + step] = chosen
    return text[:, : length + n]


def likeliest_by_hand(logits, top_p):
    """Whether those that are likelier have less than p together."""
    weights = np.exp(np.float64(logits) - logits.max(axis=-1, keepdims=True))
    probs = weights / weights.sum(axis=-1, keepdims=True)
    likelier = probs[:, None, :] > probs[:, :, None]
    return np.where(likelier, probs[:, None, :], 0).sum(axis=-1) < top_p


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
    [
        ("two layers", GREEDY),
        ("head", TOP_3),
        ("bigram", GREEDY),
        ("plain", TOP_3),
        ("lecture", {"temperature": 0.7, "top_k": 8, "top_p": 0.7}),
    ],
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


def draws(logits, rows, temperature=1.0, **options):
    """The tokens of so many rows of the same logits."""

    @jax.jit
    def tokens(logits):
        noise = jax.random.gumbel(KEY, logits.shape)
        return sample(logits, noise, jnp.float32(temperature), **options)

    return np.asarray(tokens(np.tile(np.array(logits, np.float32), (rows, 1))))


def test_samples_have_the_softmaxs_frequencies():
    tokens = draws(np.log([0.1, 0.2, 0.7]), 20_000)
    frequencies = np.bincount(tokens, minlength=3) / 20_000
    np.testing.assert_allclose(frequencies, [0.1, 0.2, 0.7], atol=0.015)


def test_top_k_keeps_the_likeliest():
    for top_k, kept in ((2, {1, 3}), (1, {1}), (100, {0, 1, 2, 3})):
        assert set(draws([0, 3, 1, 2], 1_000, top_k=top_k)) == kept


# Of tokens with the probabilities 1/8, 1/2, 1/8, 1/4.
NUCLEUS = [
    ("less than the likeliest has", {"top_p": 1e-30}, {1}),
    ("just what it has", {"top_p": 0.5}, {1}),
    ("a little more", {"top_p": 0.51}, {1, 3}),
    ("just what two have", {"top_p": 0.75}, {1, 3}),
    ("equals stay together", {"top_p": 0.76}, {0, 1, 2, 3}),
    ("all", {"top_p": 1.0}, {0, 1, 2, 3}),
    ("of those that top_k leaves", {"top_p": 0.66, "top_k": 2}, {1}),
    ("hotter: 1/8 is 0.18", {"top_p": 0.5, "temperature": 2.0}, {1, 3}),
    ("colder: 1/2 is 0.73", {"top_p": 0.7, "temperature": 0.5}, {1}),
    ("so cold that float32 has no such temperature", {"top_p": 0.9, "temperature": 1e-300}, {1}),
]


@pytest.mark.parametrize(
    ("options", "kept"), [pytest.param(*row[1:], id=row[0]) for row in NUCLEUS]
)
def test_top_p_keeps_the_fewest_likeliest_that_reach_it(options, kept):
    options = options | {"top_p": jnp.float32(options["top_p"])}
    assert set(draws(np.log([1 / 8, 1 / 2, 1 / 8, 1 / 4]), 2_000, **options)) == kept


@pytest.mark.parametrize("size", [1, 2, 65, 50_257])
def test_top_p_keeps_what_sorting_would(size, x64):
    """In both types; the likeliest in any case, and equals of other signs of zero."""
    draw = np.random.default_rng(size)
    logits = draw.normal(size=(3, size)) * 3
    logits[1] = np.round(logits[1])
    for dtype in (np.float32, np.float64):
        given = jnp.asarray(logits.astype(dtype))
        for top_p in (1e-7, 0.2, 0.9, 0.999):
            got = np.isfinite(likeliest(given, jnp.float32(1), jnp.float32(top_p)))
            ordered = -np.sort(-logits.astype(dtype))
            probs = np.exp(np.float64(ordered) - ordered[:, :1])
            probs /= probs.sum(axis=-1, keepdims=True)
            before = (np.cumsum(probs, axis=-1) - probs) < np.float32(top_p)
            smallest = np.take_along_axis(ordered, before.sum(axis=-1, keepdims=True) - 1, axis=-1)
            np.testing.assert_array_equal(got, logits.astype(dtype) >= smallest)


def test_one_program_serves_every_top_p_and_1_is_none():
    model, prompt = model_of("lecture"), jax.device_put(prompts(3))
    whole = np.asarray(ja.generate(model, prompt, N, key=KEY))
    texts = [np.asarray(ja.generate(model, prompt, N, key=KEY, top_p=0.5))]
    before = extend._jitted._cache_size()
    for top_p in (0.01, 0.999, 1, 1.0):
        texts.append(np.asarray(ja.generate(model, prompt, N, key=KEY, top_p=top_p)))
    assert extend._jitted._cache_size() == before
    np.testing.assert_array_equal(texts[-1], whole)
    assert any((text != whole).any() for text in texts)
    greedy = np.asarray(ja.generate(model, prompt, N, key=KEY, **GREEDY))
    np.testing.assert_array_equal(texts[1], greedy)


@pytest.mark.parametrize("options", [{}, GREEDY, {"top_k": 2}, {"top_p": 0.6}])
def test_what_is_not_allowed_is_never_drawn(options):
    """And top_k and top_p are of the others."""
    model, prompt = model_of("bigram"), jax.device_put(prompts(1))
    allowed = np.arange(V) % 2 == 0
    text = np.asarray(ja.generate(model, prompt, 200, key=KEY, allowed=allowed, **options))
    assert set(text[:, 1:].flat) <= set(np.flatnonzero(allowed))
    assert len(set(text[:, 1:].flat)) > 1
    everything = ja.generate(model, prompt, 200, key=KEY, allowed=np.ones(V, bool), **options)
    np.testing.assert_array_equal(everything, ja.generate(model, prompt, 200, key=KEY, **options))


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

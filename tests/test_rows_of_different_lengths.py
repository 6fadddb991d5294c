"""Prompts of different lengths in one batch: each row is what it is alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_attn as ja
from jax_attn.generate import stream
from tests.small_models import GREEDY, KEY, TOP_3, N, T, V, model_of, prompts

# Inside the window, at its end, and past it.
LENGTHS = np.array([2, T, T + 5])
KEYS = jax.random.split(KEY, len(LENGTHS))
TOP_P = {"temperature": 0.7, "top_p": 0.8}


def padded(fill):
    tokens = prompts(T + 5)
    return np.where(np.arange(T + 5) < LENGTHS[:, None], tokens, fill)


def together(model, key=KEYS, fill=-1, **options):
    tokens = jax.device_put(padded(fill))
    return np.asarray(ja.generate(model, tokens, N, key=key, lengths=LENGTHS, **options))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lecture", GREEDY),
        ("lecture", TOP_P),
        ("head", {}),
        ("plain", TOP_3),
        ("bigram", {}),
    ],
)
def test_a_row_is_its_prompt_alone_with_its_own_key(name, options):
    """Its prompt, its new tokens, then -1."""
    model = model_of(name)
    text = together(model, **options)
    assert text.shape == (3, T + 5 + N)
    for row, (length, key) in enumerate(zip(LENGTHS, KEYS, strict=True)):
        prompt = jax.device_put(prompts(T + 5)[row : row + 1, :length])
        alone = np.asarray(ja.generate(model, prompt, N, key=key, **options))[0]
        np.testing.assert_array_equal(text[row, : length + N], alone)
        assert (text[row, length + N :] == -1).all()


def test_with_one_key_a_row_depends_on_its_place_and_on_no_other_row():
    model = model_of("lecture")
    text = together(model, key=KEY, **TOP_3)
    others = prompts(T + 5)[[1, 2, 2]]
    others[1] = padded(0)[1]
    lengths = np.array([5, T, 1])
    tokens = jax.device_put(others)
    again = np.asarray(ja.generate(model, tokens, N, key=KEY, lengths=lengths, **TOP_3))
    np.testing.assert_array_equal(again[1, : T + N], text[1, : T + N])
    assert (again[0] != text[0]).any()


def test_what_a_prompt_is_padded_with_is_nothing():
    """Not even an id, unless it is."""
    model = model_of("lecture")
    expected = together(model, **TOP_P)
    for fill in (0, V - 1, V, 10**6):
        np.testing.assert_array_equal(together(model, fill=fill, **TOP_P), expected)


def test_rows_of_one_length_are_what_they_are_without_lengths():
    model, tokens = model_of("lecture"), jax.device_put(prompts(T + 5))
    expected = ja.generate(model, tokens, N, key=KEY, **TOP_3)
    lengths = np.full(3, T + 5)
    got = ja.generate(model, tokens, N, key=KEY, lengths=lengths, **TOP_3)
    np.testing.assert_array_equal(got, expected)


def test_as_they_are_made_and_inside_a_program():
    model, whole = model_of("lecture"), together(model_of("lecture"), **TOP_P)
    chunks = stream(model, jax.device_put(padded(0)), N, 7, key=KEYS, lengths=LENGTHS, **TOP_P)
    made = np.concatenate(list(chunks), axis=1)
    expected = [row[length : length + N] for row, length in zip(whole, LENGTHS, strict=True)]
    np.testing.assert_array_equal(made, expected)
    inside = jax.jit(lambda t, n: ja.generate(model, t, N, key=KEYS, lengths=n, **TOP_P))
    np.testing.assert_array_equal(inside(jnp.asarray(padded(3)), jnp.asarray(LENGTHS)), whole)


def test_keys_of_the_old_kind():
    model, tokens = model_of("bigram"), jax.device_put(prompts(1))
    old = np.asarray(jax.random.key_data(KEYS))
    expected = ja.generate(model, tokens, N, key=KEYS)
    np.testing.assert_array_equal(ja.generate(model, tokens, N, key=jnp.asarray(old)), expected)

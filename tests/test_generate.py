import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
from jax_attn.generate import sample

CONFIG = ja.GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=3, n_embd=15)
MODELS = {
    "gpt": ja.GPT(CONFIG, rngs=nnx.Rngs(0)),
    "dropout": ja.GPT(ja.GPTConfig(11, 8, 1, 3, 15, dropout_rate=0.5), rngs=nnx.Rngs(1)),
    "head": ja.SingleHeadLanguageModel(11, 8, 15, 5, rngs=nnx.Rngs(0)),
    "bigram": ja.BigramLanguageModel(11, rngs=nnx.Rngs(0)),
}
KEY = jax.random.key(7)


def naive(model, tokens, max_new_tokens, key, temperature=1.0, top_k=None):
    """The lecture's loop: crop the growing context, call the model, look at the last position."""
    for i in range(max_new_tokens):
        logits = model(tokens[:, -model.block_size :])[:, -1]
        if temperature == 0:
            chosen = logits.argmax(-1)
        else:
            chosen = sample(logits / temperature, jax.random.fold_in(key, i), top_k)
        tokens = jnp.concatenate([tokens, chosen[:, None]], axis=1)
    return tokens


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("prompt_length", [1, 5, 8, 13])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_k": 3}])
def test_equals_the_growing_context_also_past_block_size(name, prompt_length, options):
    model = MODELS[name]
    prompt = jax.random.randint(jax.random.key(prompt_length), (3, prompt_length), 0, 11)
    got = ja.generate(model, prompt, 20, key=KEY, **options)
    assert got.shape == (3, prompt_length + 20)
    np.testing.assert_array_equal(got, naive(model, prompt, 20, KEY, **options))


def test_the_key_decides():
    prompt = jnp.zeros((1, 1), jnp.int32)
    first, again, other = (
        ja.generate(MODELS["gpt"], prompt, 30, key=jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_rows_of_a_batch_differ():
    tokens = ja.generate(MODELS["gpt"], jnp.zeros((4, 1), jnp.int32), 30, key=KEY)
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


def test_samples_have_the_softmaxs_frequencies():
    logits = jnp.tile(jnp.log(jnp.array([0.1, 0.2, 0.7])), (20_000, 1))
    frequencies = np.bincount(sample(logits, KEY), minlength=3) / 20_000
    np.testing.assert_allclose(frequencies, [0.1, 0.2, 0.7], atol=0.015)


def test_top_k_keeps_the_likeliest():
    logits = jnp.tile(jnp.array([0.0, 3.0, 1.0, 2.0]), (1_000, 1))
    assert set(np.asarray(sample(logits, KEY, top_k=2))) == {1, 3}
    assert set(np.asarray(sample(logits, KEY, top_k=1))) == {1}
    assert set(np.asarray(sample(logits, KEY, top_k=100))) == {0, 1, 2, 3}


def test_no_new_tokens_is_the_prompt():
    prompt = jnp.array([[1, 2, 3]])
    np.testing.assert_array_equal(ja.generate(MODELS["gpt"], prompt, 0, key=KEY), prompt)


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
        ja.generate(MODELS["gpt"], tokens, 3, key=KEY, **options)

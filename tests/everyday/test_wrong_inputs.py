"""Inputs, weights and arguments of a wrong rank, kind or framework: one sentence each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attn as ja
from tests.everyday.modules import CONFIG, LAYERS, MODULES, C, V

ROW = np.zeros((1, 2), np.int32)
BAD_IDS = [
    pytest.param([[1, 2]], "idx must be an array, got list; give jnp.asarray", id="list"),
    pytest.param(((1, 2),), "idx must be an array, got tuple; give", id="tuple"),
    pytest.param(None, "idx must be an array, got NoneType", id="None"),
    pytest.param(3, "idx must be an array, got int", id="number"),
    pytest.param("ROMEO", "idx is a str; a tokenizer's encode", id="text"),
    pytest.param(torch.tensor([[1, 2]]), "idx is a torch Tensor; give jnp.asarray", id="torch"),
    pytest.param(ROW.astype(np.float32), "idx is of type float32; token ids", id="float ids"),
    pytest.param(ROW.astype(bool), "idx is of type bool; token ids must be", id="bools"),
    pytest.param(ROW.astype(object), "idx is of type object; token ids", id="objects"),
    pytest.param(np.array([["a"]]), "idx is of type <U1; token ids", id="letters"),
    pytest.param(jax.random.key(0), "idx must be an array, got PRNGKeyArray", id="key"),
    pytest.param(jax.ShapeDtypeStruct((1, 2), jnp.int32), "jax.eval_shape takes", id="shape"),
    pytest.param(ROW[0], r"got the shape \(2,\); idx\[None\] is a batch of one text", id="rank 1"),
    pytest.param(ROW[0, 0], r"idx must be \[batch, time\], got the shape \(\)", id="rank 0"),
    pytest.param(ROW[None], r"idx must be \[batch, time\], got the shape", id="rank 3"),
    pytest.param(np.array([[2**32]]), "holds 4294967296, which does not fit 32", id="64-bit id"),
]


@pytest.mark.parametrize(("idx", "message"), BAD_IDS)
@pytest.mark.parametrize("name", ["GPT", "single head", "bigram"])
def test_ids_that_are_none_get_one_sentence(name, idx, message, unchecked):
    model = nnx.eval_shape(MODULES[name])
    for use in (model, *([] if name == "bigram" else [model.attention_weights])):
        with pytest.raises(ja.InputError, match=message) as error:
            use(idx)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["GPT", "single head"])
def test_a_text_that_is_too_long_is_refused(name, unchecked):
    with pytest.raises(ValueError, match="9 tokens do not fit block_size 8; crop"):
        nnx.eval_shape(MODULES[name])(np.zeros((1, 9), np.int32))


@pytest.mark.parametrize("shape", [(0, 3), (1, 0)], ids=["no rows", "no tokens"])
@pytest.mark.parametrize("name", ["GPT", "single head", "bigram"])
def test_nothing_gives_nothing(name, shape):
    model = nnx.eval_shape(MODULES[name])
    idx = jax.ShapeDtypeStruct(shape, jnp.int32)
    assert jax.eval_shape(lambda m, i: m(i), model, idx).shape == (*shape, V)


@pytest.mark.parametrize(("prompt", "message"), BAD_IDS)
def test_a_prompt_that_is_none_gets_one_sentence(prompt, message, unchecked):
    model = nnx.eval_shape(MODULES["bigram"])
    with pytest.raises(ja.InputError, match=message.replace("idx", "tokens")):
        ja.generate(model, prompt, 2, key=jax.random.key(0))


ONES = np.ones((1, 2, C), np.float32)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        pytest.param(ONES.tolist(), "x must be an array, got list; give", id="list"),
        pytest.param(torch.ones(1, 2, C), "x is a torch Tensor; give", id="torch"),
        pytest.param(ROW, "x is of type int32; channels must be", id="ids, not embedded"),
        pytest.param(ONES.astype(object), "x is of type object", id="objects"),
        pytest.param(ONES + 1j, "x is of type complex64; channels", id="complex"),
        pytest.param(ONES[0], r"got the shape \(2, 15\); x\[None\] is a batch", id="no batch"),
        pytest.param(ONES[None], r"got the shape \(1, 1, 2, 15\)", id="rank 4"),
        pytest.param(ONES[..., :14], "x has 14 channels; this module was made for 15", id="C"),
    ],
)
@pytest.mark.parametrize("name", LAYERS)
def test_wrong_channels_get_one_sentence(name, x, message, unchecked):
    with pytest.raises(ja.InputError, match=message) as error:
        nnx.eval_shape(MODULES[name])(x)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        pytest.param(ONES[..., :14], "context has 14 channels; this module", id="channels"),
        pytest.param(np.ones((2, 3, C)), "context has a batch of 2, but x one of 1", id="batch"),
        pytest.param(ONES[0], r"context must be \[batch, time, channels\]", id="no batch"),
        pytest.param([1.0], "context must be an array, got list", id="list"),
    ],
)
@pytest.mark.parametrize("name", ["Head", "MultiHeadAttention"])
def test_a_wrong_context_gets_one_sentence(name, context, message, unchecked):
    with pytest.raises(ja.InputError, match=message):
        nnx.eval_shape(MODULES[name])(ONES, context)


LOGITS = np.zeros((2, 3, V), np.float32)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        pytest.param(np.zeros((2, 1), np.int32), r"shape \(2, 1\), but logits", id="broadcast"),
        pytest.param(np.zeros((1, 3), np.int32), r"shape \(1, 3\), but logits", id="one row"),
        pytest.param(np.zeros(6, np.int32), r"shape \(6,\), but logits of the", id="flat"),
        pytest.param(LOGITS, "targets is of type float32; targets are ids", id="one-hot"),
        pytest.param([[0] * 3] * 2, "targets must be an array, got list", id="list"),
        pytest.param(torch.zeros(2, 3, dtype=int), "targets is a torch Tensor", id="torch"),
    ],
)
def test_wrong_targets_get_one_sentence(targets, message, unchecked):
    with pytest.raises(ja.InputError, match=message):
        ja.next_token_loss(LOGITS, targets)


SQUARE = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(
            lambda: ja.attention_weights(SQUARE, SQUARE, mask=np.tril(np.ones((2, 2)))),
            "mask is of type float64; it must be booleans",
            id="mask of numbers",
        ),
        pytest.param(
            lambda: ja.attention_weights(SQUARE.tolist(), SQUARE),
            "query must be an array, got list",
            id="query, a list",
        ),
        pytest.param(
            lambda: ja.attend(torch.ones(2, 2), SQUARE),
            "weights is a torch Tensor",
            id="weights of torch",
        ),
        pytest.param(
            lambda: ja.running_mean_softmax(np.ones((1, 2, 3), np.int32)),
            "x is of type int32",
            id="mean of integers",
        ),
        pytest.param(
            lambda: ja.running_mean_loop(SQUARE),
            r"x must be \[batch, time, channels\]",
            id="mean without a batch",
        ),
        pytest.param(
            lambda: ja.MultiHeadAttention(15, 0, rngs=nnx.Rngs(0)),
            "n_head is 0; it must be",
            id="no heads",
        ),
        pytest.param(
            lambda: ja.Head(15, -5, rngs=nnx.Rngs(0)), "head_size is -5", id="negative head size"
        ),
        pytest.param(
            lambda: ja.Head(15, 5, dropout_rate=1.5, rngs=nnx.Rngs(0)),
            "dropout_rate is 1.5; it must be",
            id="dropout of more than all",
        ),
        pytest.param(
            lambda: ja.BigramLanguageModel(0, rngs=nnx.Rngs(0)), "vocab_size is 0", id="no symbols"
        ),
    ],
)
def test_functions_and_sizes(call, message, unchecked):
    with pytest.raises(ja.InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda w: w.astype(np.float64) * 1e300, "too large for", id="float64 beyond"),
        pytest.param(lambda w: w * 1j, "complex64; weights are real", id="complex"),
        pytest.param(lambda w: np.full(w.shape, "1"), "weights are real", id="strings"),
        pytest.param(lambda w: w > 0, "bool; weights are real", id="booleans"),
    ],
)
def test_weights_that_are_none(change, said):
    model = ja.BigramLanguageModel(5, rngs=nnx.Rngs(0))
    state_dict = ja.to_state_dict(model)
    (name,) = state_dict
    with pytest.raises(ja.InputError, match=said):
        ja.load_state_dict(model, {name: change(state_dict[name])})
    np.testing.assert_array_equal(ja.to_state_dict(model)[name], state_dict[name])


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param(np.arange(20) % 5 + 0.9, id="fractions"),
        pytest.param(np.ones(20), id="whole floats"),
        pytest.param(np.ones((2, 9), int), id="a batch"),
        pytest.param([True, False] * 9, id="booleans"),
        pytest.param(np.array([1, 2**32 + 1, 3]), id="64 bits"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_tokens_to_evaluate_that_are_none(tokens):
    model = ja.BigramLanguageModel(5, rngs=nnx.Rngs(0))
    with pytest.raises(ja.InputError, match=r"^tokens (are ids, int|hold 4294967297)"):
        ja.evaluate(model, tokens, block_size=4)


RNGS, PROMPT, KEY = nnx.Rngs(0), jnp.zeros((1, 1), jnp.int32), jax.random.key(0)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        pytest.param(
            lambda: ja.GPT({"n_layer": 1}, rngs=RNGS), "a GPTConfig", id="a dict as config"
        ),
        pytest.param(lambda: ja.GPT(CONFIG, rngs=KEY), "rngs must be", id="a key as rngs"),
        pytest.param(lambda: ja.BigramLanguageModel(5, rngs=0), "got int", id="a seed as rngs"),
        pytest.param(lambda: ja.Head(8, 4, rngs=None), "got NoneType", id="no rngs"),
        pytest.param(lambda: ja.MultiHeadAttention(8, 2, rngs=1), "got int", id="heads of a seed"),
        pytest.param(lambda: sampled(0), "key must be one key.*got int", id="a seed as key"),
        pytest.param(lambda: sampled(None), "got NoneType", id="no key"),
        pytest.param(lambda: sampled(RNGS), "got Rngs", id="rngs as key"),
        pytest.param(lambda: sampled(jax.random.split(KEY)), "of the shape", id="two keys"),
        pytest.param(lambda: ja.load_model(None), "must be a path, that of a run", id="no source"),
        pytest.param(lambda: ja.load_model(b"runs"), "got bytes", id="a source of bytes"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_given_in_the_wrong_place(use, said):
    with pytest.raises(ja.InputError, match=said):
        use()


def sampled(key):
    return ja.generate(ja.BigramLanguageModel(5, rngs=nnx.Rngs(0)), PROMPT, 3, key=key)


def test_a_key_of_the_old_kind_samples():
    assert sampled(jax.random.PRNGKey(0)).shape == (1, 4)

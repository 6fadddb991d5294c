"""Numbers that are none, or absurd, as arguments of Python's functions: each has its domain."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
from jax_attn.config import HeadShape
from jax_attn.generate import stream
from jax_attn.nn.dropout import dropout
from tests.small_models import filled

pytestmark = pytest.mark.usefixtures("unchecked")

NAN, INF, HUGE = math.nan, math.inf, 10**30
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model():
    return filled(lambda: ja.BigramLanguageModel(28, rngs=nnx.Rngs(0)))


PROMPT = np.zeros((1, 1), np.int32)
REQUESTS = [
    ("temperature nan", {"temperature": NAN}, "temperature is nan; it must be a number"),
    ("temperature inf", {"temperature": INF}, "temperature is inf"),
    ("temperature True", {"temperature": True}, "temperature is True; it must be a number, not bo"),
    ("top_k 0", {"top_k": 0}, "top_k is 0; it must be greater than 0"),
    ("top_k True", {"top_k": True}, "top_k is True; it must be an integer, not bool"),
    ("top_k 2.5", {"top_k": 2.5}, "top_k is 2.5; it must be an integer, not float"),
    ("top_p 0", {"top_p": 0}, "top_p is 0; it must be greater than 0"),
    ("top_p 1.5", {"top_p": 1.5}, "top_p is 1.5; it must be at most 1"),
    ("top_p True", {"top_p": True}, "top_p is True; it must be a number, not bool"),
    ("lengths of nothing", {"lengths": np.array([0])}, "lengths must be from 1 to 1, the p"),
    ("lengths past the prompt", {"lengths": np.array([2])}, "the prompts' width; got 2"),
    ("lengths of two rows", {"lengths": np.array([1, 1])}, "one for each of 1 rows, got the shape"),
    ("lengths that are floats", {"lengths": np.array([1.0])}, "lengths are numbers of tokens, so"),
    ("a list of lengths", {"lengths": [1]}, "lengths must be an array, got list; give jnp.asarray"),
    ("nothing allowed", {"allowed": np.zeros(28, bool)}, "allowed has no id that may be drawn"),
    ("ids for allowed", {"allowed": np.arange(28)}, "it must be booleans, True where an id may be"),
    (
        "too few allowed",
        {"allowed": np.ones(27, bool)},
        "allowed has the shape (27,); the",
    ),
    (
        "a row of allowed",
        {"allowed": np.ones((1, 28), bool)},
        "allowed must be [vocab], got",
    ),
    (
        "two keys for a row",
        {"key": jax.random.split(KEY)},
        "key must be one key, jax.random.key(0)",
    ),
    ("-1 new tokens", {"n": -1}, "max_new_tokens is -1; it must be at least 0"),
    ("2.5 new tokens", {"n": 2.5}, "max_new_tokens is 2.5; it must be an integer"),
    ("3e9 new tokens", {"n": 3 * 10**9}, "max_new_tokens is 3000000000; it must be at most"),
    ("many rows of many tokens", {"n": 10**9, "rows": 100}, "tokens would take"),
    ("an id outside", {"ids": [0, 28, -5]}, "ids outside the vocabulary, [0, 28): -5, 28"),
    (
        "an id past int32",
        {"ids": np.array([2**40])},
        "tokens holds 1099511627776, which",
    ),
    (
        "ids that are floats",
        {"ids": [1.5]},
        "token ids must be integers",
    ),
]


@pytest.mark.parametrize(
    ("request_", "said"), [pytest.param(*row[1:], id=row[0]) for row in REQUESTS]
)
def test_what_generation_refuses(model, request_, said):
    options = {"key": KEY} | request_
    n, ids, rows = options.pop("n", 3), options.pop("ids", [0]), options.pop("rows", 1)
    prompt = np.tile(np.asarray([ids]), (rows, 1))
    for generated in (
        lambda: ja.generate(model, prompt, n, **options),
        lambda: list(stream(model, prompt, n, 4, **options)),
    ):
        with pytest.raises(ja.InputError) as caught:
            generated()
        assert said in str(caught.value)


@pytest.mark.parametrize("temperature", [1e-6, 1e-38, 1e-45, 1e-300])
def test_a_tiny_temperature_is_the_greedy_text(model, temperature):
    greedy = ja.generate(model, PROMPT, 12, key=KEY, temperature=0.0)
    assert len(set(np.asarray(greedy)[0])) > 1
    tiny = ja.generate(model, PROMPT, 12, key=KEY, temperature=temperature)
    np.testing.assert_array_equal(tiny, greedy)


def test_the_largest_temperature_still_draws(model):
    hot = ja.generate(model, PROMPT, 100, key=KEY, temperature=1e30)
    assert len(set(np.asarray(hot)[0])) > 20


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_choose_nothing(temperature):
    model = ja.BigramLanguageModel(28, rngs=nnx.Rngs(0))
    table = model.token_embedding_table.embedding
    table.set_value(table[...].at[:, 3].set(NAN))
    with pytest.raises(ja.InputError, match="logits for token 1 of the text are NaN"):
        ja.generate(model, PROMPT, 12, key=KEY, temperature=temperature)
    with pytest.raises(ja.InputError, match="logits for token 1 of the text are NaN"):
        list(stream(model, PROMPT, 12, 4, key=KEY, temperature=temperature))


def vectors(*shape):
    return jnp.ones(shape)


TOKENIZER = ja.CharTokenizer("abc")
RNGS = nnx.Rngs(0)
GPT = {"vocab_size": 5, "block_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 4}
FUNCTIONS = [
    ("a scale of nan", lambda: ja.attention_weights(vectors(2, 3), vectors(2, 3), scale=NAN),
     "scale is nan; it must be a number"),
    ("a fused scale of inf",
     lambda: ja.dot_product_attention(*[vectors(2, 3)] * 3, scale=-INF), "scale is -inf"),
    ("a mask of length -1", lambda: ja.causal_mask(-1), "length is -1; it must be at least 0"),
    ("a mask of length 2.0", lambda: ja.causal_mask(2.0), "length is 2.0; it must be an integer"),
    ("a mask without end", lambda: ja.causal_mask(10**7), "a mask of length 10,000,000 would tak"),
    ("averages without end", lambda: ja.averaging_weights(10**7), "a matrix of length 10,000,000"),
    ("averages of length -1", lambda: ja.averaging_weights(-1), "length is -1"),
    ("softmax averages without end", lambda: ja.softmax_averaging_weights(10**7), "would take"),
    ("a dropout rate of nan", lambda: dropout(NAN, RNGS), "dropout_rate is nan"),
    ("a head that drops all", lambda: ja.Head(4, 4, dropout_rate=1.0, rngs=RNGS),
     "dropout_rate is 1.0; it must be less than 1"),
    ("a head of size 0", lambda: ja.Head(4, 0, rngs=RNGS), "head_size is 0"),
    ("no heads", lambda: ja.MultiHeadAttention(4, 0, rngs=RNGS), "n_head is 0"),
    ("no vocabulary", lambda: ja.BigramLanguageModel(0, rngs=RNGS), "vocab_size is 0"),
    ("a negative block", lambda: ja.SingleHeadLanguageModel(5, -1, 4, 4, rngs=RNGS),
     "block_size is -1"),
    ("half a layer", lambda: ja.GPTConfig(**(GPT | {"n_layer": 0.5})), "n_layer is 0.5; it must b"),
    ("an epsilon that vanishes", lambda: ja.GPTConfig(**GPT, layer_norm_epsilon=1e-300),
     "layer_norm_epsilon is 1e-300; it must be at least"),
    ("a head's shape", lambda: HeadShape(n_embd=True), "n_embd is True; it must be an integer"),
    ("steps that are no integer", lambda: config(steps=2.5), "steps is 2.5; it must be an integer"),
    ("a seed that is an array", lambda: config(seed=np.array([1])), "it must be an integer, not"),
    ("evaluation in no batches", lambda: evaluated(batch_size=0), "batch_size is 0"),
    ("evaluation of no block", lambda: evaluated(block_size=-2), "block_size is -2"),
    ("an estimate of nothing", lambda: ja.estimate_loss(None, None, 0), "n_batches is 0"),
    ("a learning rate of nan", lambda: ja.make_optimizer(ja.OptimizerConfig(), NAN, 9),
     "learning_rate is nan"),
    ("a schedule of no steps", lambda: ja.learning_rate_schedule(ja.OptimizerConfig(), 0.1, 0),
     "steps is 0"),
    ("batches longer than the text", lambda: batch(block_size=9), "9 tokens are too few for block"),
    ("batches of nothing", lambda: batch(batch_size=0), "batch_size is 0"),
    ("decoding a huge id", lambda: TOKENIZER.decode([0, HUGE]), "ids outside [0, 3)"),
    ("decoding half an id", lambda: TOKENIZER.decode([0, 1.5]), "ids are integers; these are floa"),
    ("a seed of nan", lambda: ja.Generator(NAN), "seed must lie in"),
    ("half a permutation", lambda: ja.Generator(1).randperm(2.5), "integer"),
    ("normals of nan", lambda: ja.Generator(1).normal(NAN, 1.0, 3), "finite mean"),
    ("a probability of nan", lambda: ja.Generator(1).bernoulli(NAN, 3), "a probability lies in"),
]  # fmt: skip


def config(**changes):
    return ja.TrainConfig(**(vars(ja.PRESETS["bigram"][1]) | changes))


def batch(**changes):
    sizes = {"batch_size": 2, "block_size": 8} | changes
    return ja.RandomBatches(jnp.zeros(9, jnp.uint8), KEY, **sizes).batch(jnp.int32(0))


def evaluated(**changes):
    return ja.evaluate(None, np.zeros(9, int), **({"block_size": 8, "batch_size": 1} | changes))


@pytest.mark.parametrize(
    ("function", "said"), [pytest.param(*row[1:], id=row[0]) for row in FUNCTIONS]
)
def test_an_argument_outside_its_domain(function, said):
    with pytest.raises((ValueError, TypeError)) as caught:
        function()
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_numbers_of_numpy_are_numbers():
    settings = config(steps=np.int64(7), learning_rate=np.float32(0.5))
    assert json.loads(json.dumps(settings.to_dict()))["steps"] == 7
    assert TOKENIZER.decode([0, HUGE], errors="replace") == "a\ufffd"

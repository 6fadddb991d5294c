"""A model from weights alone: which tensors are taken, what is refused, what is left as it was."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attn as ja
import jax_attn.models.gpt
from jax_attn.interop import LAYOUTS, layout_of, load_state_dict, model_of, to_state_dict
from tests.small_models import filled

SHAPE = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 3, "n_embd": 15}
GPT2 = {"activation": "gelu_tanh", "qkv_bias": True, "tie_embeddings": True, "head_bias": False}
TABLE = "token_embedding_table.weight"
NANOGPT = GPT2 | {"activation": "gelu"}
HEADS = {"n_head": 3}
IDS = jax.device_put(np.zeros((1, 2), np.int32))


def gpt(**fields):
    config = ja.GPTConfig(**(SHAPE | fields))
    return filled(lambda: ja.GPT(config, rngs=nnx.Rngs(0)))


def bigram(value):
    return {TABLE: value}


def square():
    return torch.arange(9.0).reshape(3, 3)


def quantized():
    with warnings.catch_warnings(action="ignore"):  # torch will give them up
        return torch.quantize_per_tensor(square(), 0.1, 0, torch.qint8)


class Unreadable:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("out of reach\nand more")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (square().to("meta"), "is on torch's meta device, where tensors hold no numbers"),
        (square().to_sparse(), "is of the layout torch.sparse_coo; give its to_dense()"),
        (quantized(), "is quantized; give its dequantize()"),
        (square().to(torch.complex64), "is of type complex64; weights are real numbers"),
        (square() > 3, "is of type bool; weights are real numbers"),
        (np.zeros((3, 3), object), "is of type ndarray; weights are real numbers"),
        (np.zeros((3, 3), "V2"), "is of type |V2; weights are real numbers"),
        ([[1.0, 2.0], [3.0]], "cannot be read as an array: setting an array element"),
        ("weights.npy", "is of type <U11; weights are real numbers"),
        (None, "is of type NoneType; weights are real numbers"),
        (jax.random.split(jax.random.key(0), 9).reshape(3, 3), "cannot be read as an array"),
        (Unreadable(), "cannot be read as an array: out of reach"),
        (np.full((3, 3), 1e300), "has numbers too large for the model's float32"),
        (np.zeros((3, 2)), "has shape (3, 2); the model needs (3, 3)"),
        (np.zeros(3), "has shape (3,); it must be a matrix"),
        ({"weight": 1}, "is a mapping of its own; give the state dict that it holds"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_tensor_that_holds_no_weights_is_named(value, message):
    with pytest.raises(ja.InputError, match=re.escape(f"{TABLE} {message}")) as caught:
        model_of(bigram(value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.nn.Linear(3, 3), "a mapping of names to arrays, not Linear; give that Linear's"),
        ([1, 2], "a mapping of names to arrays, not list"),
        ({3: square()}, "names in a state dict are strings; got 3"),
        ({}, "the names here are none"),
        ({"encoder.weight": square()}, "the names here are encoder.weight"),
        ({"model": bigram(square()), "iter_num": 3}, "model is a mapping of its own"),
        ({f"module.{TABLE}": square()} | bigram(square()), "are two names of token_embedding_tab"),
    ],
    ids=["a module", "a list", "a number", "nothing", "others", "a checkpoint", "twice"],
)
def test_what_is_no_state_dict_is_refused(value, message, unchecked):
    with pytest.raises(ja.InputError, match=re.escape(message)):
        model_of(value)


def test_the_weights_given_stay_somebody_elses():
    """torch trains on in place; the model here must not move with it."""
    table = torch.nn.Parameter(square())
    model = model_of(bigram(table))
    with torch.no_grad():
        table += 1
    np.testing.assert_array_equal(model.token_embedding_table.embedding[...], square())
    written = to_state_dict(model)
    written[TABLE] += 1
    np.testing.assert_array_equal(model.token_embedding_table.embedding[...], square())


def test_no_weights_are_drawn_beside_those_given(monkeypatch):
    """Shapes alone are asked of the initialisers."""
    given, drawn = to_state_dict(gpt()), []

    def normal(std):
        def draw(key, shape, dtype):
            drawn.append(jax.random.normal(key, shape, dtype) * std)
            return drawn[-1]

        return draw

    monkeypatch.setattr(jax_attn.models.gpt, "normal", normal)
    model_of(given)
    assert drawn
    assert all(isinstance(array, jax.core.Tracer) for array in drawn)


def test_dropout_draws_what_it_draws_in_a_model_made_anew():
    fields = SHAPE | {"n_layer": 1, "dropout_rate": 0.5}
    theirs = ja.GPT(ja.GPTConfig(**fields), rngs=nnx.Rngs(0))
    ours = model_of(to_state_dict(theirs), dropout_rate=0.5)
    streams = [jax.tree.leaves(nnx.state(model, nnx.RngKey)) for model in (ours, theirs)]
    assert streams[0]
    for own, new in zip(*streams, strict=True):
        np.testing.assert_array_equal(jax.random.key_data(own), jax.random.key_data(new))


def test_numbers_keep_their_type_where_it_is_asked_for():
    model = model_of(bigram(square().to(torch.bfloat16)), param_dtype=jnp.bfloat16)
    assert model.token_embedding_table.embedding.dtype == jnp.bfloat16
    assert model_of(bigram(square().numpy()), dtype=jnp.bfloat16)(IDS).dtype == jnp.bfloat16


@pytest.mark.parametrize("layout", LAYOUTS)
def test_untied_copies_and_equal_ones(layout):
    """An output matrix that is the embedding over again is tied, unless somebody says it is not."""
    fields = GPT2 if layout != "lecture" else {"tie_embeddings": True}
    given = to_state_dict(gpt(**fields), layout)
    heads = {} if layout == "lecture" else HEADS
    assert model_of(given, **heads).config.tie_embeddings
    untied = model_of(given, tie_embeddings=False, **heads)
    assert untied.lm_head.kernel is not None
    np.testing.assert_array_equal(
        untied.lm_head.kernel[...].T, untied.token_embedding_table.embedding[...]
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_head": 4}, "n_head is given as 4, but the arrays have 3"),
        ({"n_embd": 16}, "n_embd is given as 16, but the arrays have 15"),
        ({"block_size": 9}, "block_size is given as 9, but the arrays have 8"),
        ({"n_inner": 61}, "n_inner is given as 61, but the arrays have 0"),
        ({"norm_bias": False}, "norm_bias is given as False, but the arrays have True"),
        ({"heads": 3}, "a GPT has no heads; it has vocab_size, block_size, n_layer, n_head"),
        ({"activation": "silu"}, "activation 'silu' is unknown"),
        ({"attention_scale": 0.0}, "attention_scale is 0.0; it must be greater than 0"),
        ({"layout": "keras"}, "layout 'keras' is unknown; choose lecture, nanogpt or gpt2"),
        ({"layout": "gpt2"}, "these are weights of layout 'lecture', not 'gpt2'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_fields_that_the_arrays_contradict(fields, message, unchecked):
    given = to_state_dict(gpt())
    with pytest.raises(ja.InputError, match=re.escape(message)):
        model_of(given, **fields)
    model_of(
        given, n_inner=60, n_head=3, attention_scale=0.2
    )  # what they agree with, or leave open


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("position_embedding_table.weight", "not expected: blocks.0"),
        ("blocks.0.ffwd.net.0.weight", "missing: blocks.0.ffwd.net.0.weight"),
        ("blocks.1.ln2.bias", "missing: blocks.1.ln2.bias"),
        ("lm_head.weight", "missing: lm_head.weight"),
        ("lm_head.bias", None),
    ],
)
def test_what_is_missing_is_named(name, message):
    """A bias that is nowhere is a model without it; one that is missing here alone is missing."""
    given = to_state_dict(gpt())
    del given[name]
    if message is None:
        assert not model_of(given).config.head_bias
        return
    with pytest.raises(ja.InputError, match=re.escape(message)):
        model_of(given)


def test_load_state_dict_says_whose_the_weights_are():
    given = to_state_dict(gpt(**NANOGPT), "nanogpt")
    for layout in ("lecture", "gpt2"):
        with pytest.raises(ja.InputError, match=f"weights of layout 'nanogpt', not '{layout}'"):
            load_state_dict(gpt(**NANOGPT), given, layout)
    assert layout_of(given) == "nanogpt"

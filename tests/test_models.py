import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

import jax_attn as ja
from jax_attn.models.language_model import count_parameters
from jax_attn.nn.loss import next_token_loss_sum
from jax_attn.runs.build_model import build_model
from tests.small_models import filled

TINY = {"vocab_size": 11, "block_size": 8, "n_layer": 1, "n_head": 3, "n_embd": 15}
NO_BIASES = {"qkv_bias": False, "linear_bias": False, "norm_bias": False}
IDX = jax.device_put(np.random.default_rng(5).integers(0, 10, (2, 7), np.int32))

logits_of = jax.jit(lambda model, idx: model(idx))


def gpt(dtype=None, param_dtype=jnp.float32, **fields):
    config = ja.GPTConfig(**(TINY | fields))
    return filled(lambda: ja.GPT(config, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=param_dtype))


def bigram():
    return filled(lambda: ja.BigramLanguageModel(11, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # The lecture prints 10.788929 M parameters, Hugging Face counts 124,439,808 for GPT-2.
        (ja.GPTConfig.lecture(), 10_788_929),
        (ja.GPTConfig.gpt2(), 124_439_808),
        # nanoGPT prints 123.59M for its defaults without biases, less the positions' 786,432.
        (ja.GPTConfig.gpt2(vocab_size=50304, **NO_BIASES), 124_373_760),
    ],
)
def test_parameter_counts_of_the_two_families(config, expected):
    shapes = nnx.eval_shape(lambda: ja.GPT(config, rngs=nnx.Rngs(0)))
    assert count_parameters(shapes) == expected


def test_the_bigram_model_is_a_table():
    model = ja.BigramLanguageModel(65, rngs=nnx.Rngs(0))
    assert count_parameters(model) == 65 * 65
    table = model.token_embedding_table.embedding[...]
    idx = jnp.asarray(np.array([[3, 64, 0]], np.int32))
    np.testing.assert_array_equal(logits_of(model, idx), np.asarray(table)[idx])
    assert 0.9 < np.std(table) < 1.1  # N(0, 1), as torch's nn.Embedding


@pytest.mark.parametrize(
    "options",
    [{}, {"activation": "gelu_tanh", "qkv_bias": True, "tie_embeddings": True, "head_bias": False}],
)
def test_no_logit_depends_on_a_later_token(options):
    """By gradient through the embeddings: d logits_t / d x_s is 0 for s > t."""
    model, length = gpt(**options), IDX.shape[1]

    def from_embeddings(x):
        for block in model.blocks:
            x = block(x)
        return model.lm_head(model.ln_f(x), model.token_embedding_table.embedding[...])

    derivatives = jax.jit(lambda idx: jax.jacrev(from_embeddings)(model.embed(idx)))
    size = np.abs(np.asarray(derivatives(IDX[:1]))[0, :, :, 0]).max(axis=(1, 3))
    assert (size[np.triu_indices(length, 1)] == 0).all()
    assert (size[np.tril_indices(length)] > 0).all()


def test_an_id_outside_the_vocabulary_gives_nan_not_another_row():
    models = [
        gpt(),
        bigram(),
        filled(lambda: ja.SingleHeadLanguageModel(11, 8, 15, 5, rngs=nnx.Rngs(0))),
    ]
    for model in models:
        for bad in (-1, 11, 1000):
            idx = np.array([[0, 1, 10], [0, 1, bad]], np.int32)
            logits = np.asarray(logits_of(model, jnp.asarray(idx)))
            assert np.isfinite(logits[0]).all()
            assert np.isnan(logits[1, 2]).all()


def test_the_bigram_losses_looked_up_are_those_of_its_logits():
    model, draw = bigram(), np.random.default_rng(1)
    loss_sum = jax.jit(lambda idx, targets: model.loss_sum(idx, targets))
    of_logits = jax.jit(lambda idx, targets: next_token_loss_sum(model(idx), targets))

    def at(array, place, value):
        changed = np.array(array)
        changed[0, place] = value
        return jnp.asarray(changed)

    for shape in ((1, 11), (4, 50)):  # the first is too short to be looked up
        idx, targets = (jnp.asarray(draw.integers(0, 11, shape, np.int32)) for _ in range(2))
        targets = at(targets, np.s_[:3], -1)
        total, count = loss_sum(idx, targets)
        expected, expected_count = of_logits(idx, targets)
        assert count == expected_count == targets.size - 3
        np.testing.assert_allclose(total, expected, rtol=1e-6)
        for bad in (-1, 11):
            assert np.isnan(loss_sum(at(idx, 5, bad), targets)[0])
        for bad in (-2, 11):
            assert np.isnan(loss_sum(idx, at(targets, 5, bad))[0])
        np.testing.assert_allclose(loss_sum(at(idx, 1, 99), targets)[0], total, rtol=1e-6)


def test_too_many_tokens_for_the_block_are_refused():
    with pytest.raises(ValueError, match="9 tokens do not fit block_size 8"):
        gpt()(jnp.asarray(np.zeros((1, 9), np.int32)))


def test_a_tied_head_shares_its_matrix():
    tied, untied = gpt(tie_embeddings=True), gpt()
    assert count_parameters(untied) - count_parameters(tied) == 11 * 15
    before = np.asarray(logits_of(tied, IDX))
    assert 10 not in np.asarray(IDX)
    table = np.array(tied.token_embedding_table.embedding[...])
    table[10] += 1.0  # as an input unused, as an output moved
    tied.token_embedding_table.embedding[...] = jnp.asarray(table)
    moved = (before != np.asarray(logits_of(tied, IDX))).any(axis=(0, 1))
    np.testing.assert_array_equal(moved, np.arange(11) == 10)


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh"])
def test_activations_closed_form(activation):
    from jax_attn.nn.layers import ACTIVATIONS

    expected = {"relu": 1.5, "gelu": 1.3997892, "gelu_tanh": 1.3995715}[activation]
    np.testing.assert_allclose(jax.jit(ACTIVATIONS[activation])(1.5), expected, rtol=1e-6)


def test_attention_weights_are_those_the_layers_use():
    model = gpt(n_layer=2)

    @jax.jit
    def of_model_and_first_layer(model):
        block = model.blocks[0]
        return model.attention_weights(IDX), block.sa.weights(block.ln1(model.embed(IDX)))

    weights, of_first = map(np.asarray, of_model_and_first_layer(model))
    assert weights.shape == (2, 2, 3, 7, 7)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(weights[0], of_first)


def jaxpr_dtypes(jaxpr):
    """All floating dtypes of values computed anywhere in a jaxpr."""
    found = set()
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            if jnp.issubdtype(variable.aval.dtype, jnp.floating):
                found.add(str(variable.aval.dtype))
        for inner in jaxprs_in_params(equation.params):
            found |= jaxpr_dtypes(inner)
    return found


@pytest.mark.parametrize("fields", [{}, {"activation": "gelu", "tie_embeddings": True}])
def test_no_float32_is_hard_coded(fields, x64):
    model = gpt(param_dtype=jnp.float64, **fields)
    graphdef, state = nnx.split(model)

    def loss(state):
        return ja.next_token_loss(nnx.merge(graphdef, state)(IDX), IDX)

    dtypes = jaxpr_dtypes(jax.make_jaxpr(jax.grad(loss))(state).jaxpr)
    assert dtypes == {"float64"}


def test_bfloat16_computes_narrow_and_returns_wide_logits():
    wide, narrow = gpt(), gpt(dtype=jnp.bfloat16)
    inside = jax.eval_shape(lambda model: model.blocks[0](model.embed(IDX)), narrow)
    assert inside.dtype == jnp.bfloat16
    assert narrow.blocks[0].sa.qkv.kernel.dtype == jnp.float32
    logits, expected = logits_of(narrow, IDX), np.asarray(logits_of(wide, IDX))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max())


def test_layer_norm_has_torchs_numbers():
    """A mean of 1000 ruins the fast variance; epsilon 1e-5 matters at a tiny spread."""
    norm = gpt().ln_f
    norm.scale[...], norm.bias[...] = jnp.asarray(np.ones(15, np.float32)), jnp.zeros(15)
    normalised = jax.jit(lambda x: norm(x))
    x = np.array([[1000.0, 1001.0, 1002.0] * 5])
    expected = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    got = normalised(x.astype(np.float32))
    np.testing.assert_allclose(got, expected, atol=3e-4)  # 0.27 off by fast variance
    tiny = np.array([[1e-3, -1e-3, 0.0] * 5])
    expected = tiny / np.sqrt(tiny.var() + 1e-5)
    np.testing.assert_allclose(normalised(tiny.astype(np.float32)), expected, rtol=1e-5)


@pytest.mark.parametrize("preset", ["bigram", "head", "mini"])
def test_presets_build_models_of_the_corpus_vocabulary(preset):
    config = ja.PRESETS[preset][1]
    model = nnx.eval_shape(lambda: build_model(config, vocab_size=65))
    idx = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    assert jax.eval_shape(lambda model, idx: model(idx), model, idx).shape == (1, 4, 65)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_head": 4}, "n_embd 15 is not divisible by n_head 4"),
        ({"n_layer": 0}, "n_layer is 0; it must be greater than 0"),
        ({"vocab_size": -3}, "vocab_size is -3"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0; it must be less than 1"),
        ({"activation": "swish"}, "activation 'swish' is unknown"),
        ({"attention_scale": 0.0}, "attention_scale is 0.0; it must be greater than 0"),
        ({"attention_scale": "1"}, "attention_scale is '1'; it must be a number"),
        ({"n_inner": -1}, "n_inner is -1; it must be at least 0"),
    ],
)
def test_impossible_shapes_are_refused_on_construction(fields, message, unchecked):
    with pytest.raises(ValueError, match=message):
        ja.GPTConfig(**(TINY | fields))

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

TINY = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 3, "n_embd": 15}
IDX = jax.random.randint(jax.random.key(5), (2, 7), 0, 10)


def gpt(dtype=None, param_dtype=jnp.float32, **fields):
    config = ja.GPTConfig(**(TINY | fields))
    return ja.GPT(config, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=param_dtype)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # The lecture prints 10.788929 M parameters, Hugging Face counts 124,439,808 for GPT-2.
        (ja.GPTConfig.lecture(), 10_788_929),
        (ja.GPTConfig.gpt2(), 124_439_808),
    ],
)
def test_parameter_counts_of_the_two_families(config, expected):
    shapes = nnx.eval_shape(lambda: ja.GPT(config, rngs=nnx.Rngs(0)))
    assert count_parameters(shapes) == expected


def test_the_bigram_model_is_a_table():
    model = ja.BigramLanguageModel(65, rngs=nnx.Rngs(0))
    assert count_parameters(model) == 65 * 65
    table = model.token_embedding_table.embedding[...]
    idx = jnp.array([[3, 64, 0]])
    np.testing.assert_array_equal(model(idx), table[idx])
    assert 0.9 < float(table.std()) < 1.1  # N(0, 1), as torch's nn.Embedding


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
        return model.lm_head(model.ln_f(x), model.token_embedding_table)

    jacobian = jax.jacrev(from_embeddings)(model.embed(IDX[:1]))[0, :, :, 0]
    size = np.abs(jacobian).max(axis=(1, 3))
    assert (size[np.triu_indices(length, 1)] == 0).all()
    assert (size[np.tril_indices(length)] > 0).all()


def test_an_id_outside_the_vocabulary_gives_nan_not_another_row():
    models = [
        gpt(),
        ja.BigramLanguageModel(11, rngs=nnx.Rngs(0)),
        ja.SingleHeadLanguageModel(11, 8, 15, 5, rngs=nnx.Rngs(0)),
    ]
    for model in models:
        for bad in (-1, 11, 1000):
            assert np.isfinite(model(jnp.array([[0, 1, 10]]))).all()
            assert np.isnan(model(jnp.array([[0, 1, bad]]))[0, 2]).all()


def test_the_bigram_losses_looked_up_are_those_of_its_logits():
    model = ja.BigramLanguageModel(11, rngs=nnx.Rngs(0))
    for shape in ((1, 11), (2, 7), (4, 50)):  # the first is too short to be looked up
        idx, targets = (jax.random.randint(jax.random.key(seed), shape, 0, 11) for seed in (1, 2))
        targets = targets.at[0, :3].set(-1)
        total, count = model.loss_sum(idx, targets)
        expected, expected_count = next_token_loss_sum(model(idx), targets)
        assert count == expected_count == targets.size - 3
        np.testing.assert_allclose(total, expected, rtol=1e-6)
        for bad in (-1, 11):
            assert np.isnan(model.loss_sum(idx.at[0, 5].set(bad), targets)[0])
        for bad in (-2, 11):
            assert np.isnan(model.loss_sum(idx, targets.at[0, 5].set(bad))[0])
        ignored = model.loss_sum(idx.at[0, 1].set(99), targets)[0]
        np.testing.assert_allclose(ignored, total, rtol=1e-6)


def test_too_many_tokens_for_the_block_are_refused():
    with pytest.raises(ValueError, match="9 tokens do not fit block_size 8"):
        gpt()(jnp.zeros((1, 9), jnp.int32))


def test_a_tied_head_shares_its_matrix():
    tied, untied = gpt(tie_embeddings=True), gpt()
    assert count_parameters(untied) - count_parameters(tied) == 11 * 15
    before = tied(IDX)
    assert 10 not in np.asarray(IDX)
    tied.token_embedding_table.embedding[10] += 1.0  # as an input unused, as an output moved
    moved = np.asarray(before != tied(IDX)).any(axis=(0, 1))
    np.testing.assert_array_equal(moved, np.arange(11) == 10)


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh"])
def test_activations_closed_form(activation):
    from jax_attn.nn.layers import ACTIVATIONS

    expected = {"relu": 1.5, "gelu": 1.3997892, "gelu_tanh": 1.3995715}[activation]
    np.testing.assert_allclose(ACTIVATIONS[activation](jnp.array(1.5)), expected, rtol=1e-6)


def test_attention_weights_are_those_the_layers_use():
    model = gpt()
    weights = model.attention_weights(IDX)
    assert weights.shape == (2, 2, 3, 7, 7)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    x = model.embed(IDX)
    np.testing.assert_array_equal(weights[0], model.blocks[0].sa.weights(model.blocks[0].ln1(x)))


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
    assert narrow.blocks[0](narrow.embed(IDX)).dtype == jnp.bfloat16
    assert narrow.blocks[0].sa.qkv.kernel.dtype == jnp.float32
    logits = narrow(IDX)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, wide(IDX), atol=0.05 * float(jnp.abs(wide(IDX)).max()))


def test_layer_norm_has_torchs_numbers():
    """A mean of 1000 ruins the fast variance; epsilon 1e-5 matters at a tiny spread."""
    model = gpt()
    x = jnp.array([[1000.0, 1001.0, 1002.0] * 5])
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
    np.testing.assert_allclose(model.ln_f(x), expected, atol=3e-4)  # 0.27 off by fast variance
    tiny = jnp.array([[1e-3, -1e-3, 0.0] * 5])
    wide = np.asarray(tiny, np.float64)
    expected = wide / np.sqrt(wide.var() + 1e-5)
    np.testing.assert_allclose(model.ln_f(tiny), expected, rtol=1e-5)


@pytest.mark.parametrize("preset", ["bigram", "head", "mini"])
def test_presets_build_and_run(preset):
    config = ja.PRESETS[preset][1]
    model = build_model(config, vocab_size=65)
    assert model(jnp.zeros((1, 4), jnp.int32)).shape == (1, 4, 65)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_head": 4}, "n_embd 15 is not divisible by n_head 4"),
        ({"n_layer": 0}, "n_layer is 0; it must be greater than 0"),
        ({"vocab_size": -3}, "vocab_size is -3"),
        ({"dropout_rate": 1.0}, "dropout_rate 1.0 is outside"),
        ({"activation": "swish"}, "activation 'swish' is unknown"),
    ],
)
def test_impossible_shapes_are_refused_on_construction(fields, message, unchecked):
    with pytest.raises(ValueError, match=message):
        ja.GPTConfig(**(TINY | fields))

"""Models that grow by new ids: what they knew is as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
from jax_attn.models.extended import extended
from jax_attn.models.language_model import count_parameters
from tests.small_models import filled

V, T, C, N = 11, 8, 15, 3
SIZES = {"block_size": T, "n_layer": 1, "n_head": 3, "n_embd": C}
UNTIED = ja.GPTConfig(vocab_size=V, **SIZES)
TIED = ja.GPTConfig.gpt2(vocab_size=V, **SIZES)
IDX = np.array([[3, 0, 10, 7, 7, 1, 2, 9]], np.int32)


def gpt(config):
    return filled(lambda: ja.GPT(config, rngs=nnx.Rngs(0), param_dtype=jnp.float64))


def head():
    return filled(
        lambda: ja.SingleHeadLanguageModel(V, T, C, 7, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    )


def bigram():
    return filled(lambda: ja.BigramLanguageModel(V, rngs=nnx.Rngs(0), param_dtype=jnp.float64))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("build", "more"),
    [
        pytest.param(bigram, (V + N) ** 2 - V**2, id="bigram"),
        pytest.param(head, N * (C + 7 + 1), id="head"),
        pytest.param(lambda: gpt(UNTIED), N * (C + C + 1), id="GPT"),
        pytest.param(lambda: gpt(TIED), N * C, id="tied"),
    ],
)
def test_old_ids_are_as_they_were_and_new_ones_have_their_mean(build, more):
    model = build()
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    grown = extended(model, N)
    assert count_parameters(grown) == count_parameters(model) + more
    assert grown.token_embedding_table.num_embeddings == V + N
    idx = jnp.asarray(IDX)
    old, new = model(idx), grown(idx)
    assert new.shape == (1, T, V + N)
    np.testing.assert_allclose(new[..., :V], old, rtol=1e-14, atol=1e-14)
    for n in range(N):
        np.testing.assert_allclose(new[..., V + n], old.mean(-1), rtol=1e-13, atol=1e-14)
    assert float(jax.nn.softmax(new)[..., V:].max()) <= 1 / (V + N)

    # Every number there was is in its place, with its bits; the model itself is left alone.
    after = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(grown, nnx.Param)))
    for path, array in jax.tree.leaves_with_path(before):
        found = dict(jax.tree.leaves_with_path(after))[path]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found[tuple(map(slice, array.shape))], array)
    again = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    jax.tree.map(np.testing.assert_array_equal, again, before)

    # A new id is one like any other.
    assert np.isfinite(grown(jnp.full_like(idx, V + N - 1))).all()
    assert np.isnan(grown(jnp.full_like(idx, V + N))).all()


@pytest.mark.usefixtures("x64")
def test_the_configuration_grows_too():
    grown = extended(gpt(TIED), N)
    assert grown.config == ja.GPTConfig.gpt2(vocab_size=V + N, **SIZES)
    fresh = nnx.eval_shape(lambda: ja.GPT(grown.config, rngs=nnx.Rngs(0)))
    shapes = [jax.tree.map(lambda x: x.shape, nnx.state(m, nnx.Param)) for m in (grown, fresh)]
    assert jax.tree.leaves(shapes[0]) == jax.tree.leaves(shapes[1])
    with pytest.raises(ja.InputError, match="n is -1; it must be at least 0"):
        extended(grown, -1)

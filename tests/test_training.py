import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
import jax_attn.nn.chunked_loss
from jax_attn.training.nan_search import find_nan
from jax_attn.training.step import loss_and_gradients

CONFIG = ja.GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=3, n_embd=15, dropout_rate=0.2)
OPTIMIZER = ja.make_optimizer(ja.OptimizerConfig(clip_norm=1.0), 1e-2, 20)
TOKENS = jax.random.randint(jax.random.key(3), (500,), 0, 11)
BATCHES = ja.RandomBatches(TOKENS, jax.random.key(4), batch_size=6, block_size=8)


def fresh_state(config=CONFIG, **options):
    return ja.TrainState.create(ja.GPT(config, rngs=nnx.Rngs(0), **options), OPTIMIZER)


def bits(state):
    leaves = jax.tree.leaves(state)
    plain = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in leaves
    ]
    return b"".join(np.asarray(x).tobytes() for x in plain)


def run_in_chunks(chunk, after_each=lambda state: None):
    """Twenty steps."""
    state, losses = fresh_state(), []
    for _ in range(20 // chunk):
        state, some = ja.train_chunk(state, BATCHES, OPTIMIZER, chunk)
        losses.append(np.asarray(some))
        after_each(state)
    return bits(state), np.concatenate(losses).tobytes()


def look(state):
    ja.evaluate(state.model(), TOKENS, block_size=8)
    ja.generate(state.model(), jnp.zeros((1, 1), jnp.int32), 3, key=jax.random.key(0))


def test_the_length_of_a_chunk_changes_no_bit_and_looking_in_between_neither():
    """With dropout on: parameters, optimizer state, random state and every loss."""
    expected = run_in_chunks(20)
    for chunk in (1, 2, 5):
        assert run_in_chunks(chunk) == expected
    assert run_in_chunks(5, look) == expected


def test_another_seed_gives_other_batches_and_other_bits():
    others = ja.RandomBatches(TOKENS, jax.random.key(5), batch_size=6, block_size=8)
    state, _ = ja.train_chunk(fresh_state(), others, OPTIMIZER, 5)
    same, _ = ja.train_chunk(fresh_state(), BATCHES, OPTIMIZER, 5)
    assert bits(state) != bits(same)


def test_a_compiled_step_is_an_eager_step():
    state = fresh_state(dataclasses.replace(CONFIG, n_layer=1))
    inputs, targets = BATCHES.batch(jnp.int32(0))
    with jax.disable_jit():
        eager, eager_loss = ja.train_step(state, inputs, targets, OPTIMIZER)
    compiled, losses = ja.train_chunk(state, BATCHES, OPTIMIZER, 1)
    np.testing.assert_allclose(losses[0], eager_loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(compiled.params), jax.tree.leaves(eager.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_given_batches_are_random_batches_written_down():
    inputs, targets = zip(*(BATCHES.batch(jnp.int32(i)) for i in range(5)), strict=True)
    given = ja.GivenBatches(jnp.stack(inputs), jnp.stack(targets), jnp.int32(0))
    state, losses = ja.train_chunk(fresh_state(), given, OPTIMIZER, 5)
    expected, expected_losses = ja.train_chunk(fresh_state(), BATCHES, OPTIMIZER, 5)
    np.testing.assert_array_equal(losses, expected_losses)
    assert bits(state) == bits(expected)


def test_targets_are_the_inputs_moved_on_by_one():
    numbered = ja.RandomBatches(jnp.arange(100), jax.random.key(0), batch_size=64, block_size=7)
    inputs, targets = numbered.batch(jnp.int32(3))
    np.testing.assert_array_equal(targets, inputs + 1)
    np.testing.assert_array_equal(np.diff(inputs, axis=1), 1)
    assert inputs.dtype == targets.dtype == jnp.int32


def test_every_window_can_be_drawn_and_none_reaches_past_the_end():
    numbered = ja.RandomBatches(jnp.arange(10), jax.random.key(0), batch_size=500, block_size=7)
    inputs, targets = numbered.batch(jnp.int32(0))
    assert set(np.asarray(inputs[:, 0])) == {0, 1, 2}
    assert int(targets.max()) == 9


def test_accumulation_gives_the_whole_batchs_gradient(x64):
    config = ja.GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=3, n_embd=15)
    state = fresh_state(config, param_dtype=jnp.float64)
    inputs, targets = BATCHES.batch(jnp.int32(0))
    # Parts with unequal numbers of counted targets: a mean of means would be wrong.
    targets = targets.at[0].set(-1).at[1, :5].set(-1)
    loss, gradients, _ = loss_and_gradients(state, inputs, targets)
    parts_loss, parts_gradients, _ = loss_and_gradients(state, inputs, targets, 3)
    np.testing.assert_allclose(parts_loss, loss, rtol=1e-14)
    for a, b in zip(jax.tree.leaves(parts_gradients), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-15)


def test_dropout_differs_from_step_to_step_and_is_off_in_evaluation():
    state = fresh_state()
    inputs, targets = BATCHES.batch(jnp.int32(0))
    first, _, rest = loss_and_gradients(state, inputs, targets)
    second, _, _ = loss_and_gradients(dataclasses.replace(state, rest=rest), inputs, targets)
    again, _, _ = loss_and_gradients(state, inputs, targets)
    assert float(first) == float(again) != float(second)
    model = state.model()
    assert ja.evaluate(model, TOKENS, block_size=8) == ja.evaluate(model, TOKENS, block_size=8)


@pytest.fixture(params=["cpu", "default"])
def platform(request, monkeypatch):
    """Everything is done as on a CPU, or as it is on other devices."""

    def choose(*args, default, **by_platform):
        return by_platform.get(request.param, default)(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", choose)
    ja.train_chunk.clear_cache()
    yield request.param
    ja.train_chunk.clear_cache()


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(platform):
    """Batch 2 of 5 is poisoned by an id outside the vocabulary."""
    inputs, targets = zip(*(BATCHES.batch(jnp.int32(i)) for i in range(5)), strict=True)
    inputs = jnp.stack(inputs).at[2, 0, 0].set(11)
    given = ja.GivenBatches(inputs, jnp.stack(targets), jnp.int32(0))
    state, losses = ja.train_chunk(fresh_state(), given, OPTIMIZER, 5)
    good, _ = ja.train_chunk(fresh_state(), given, OPTIMIZER, 2)
    assert not bool(state.healthy)
    assert int(state.step) == 2
    assert np.isfinite(losses[:2]).all()
    assert np.isnan(losses[2])
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(good.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_gradient_that_is_not_finite_keeps_the_last_good_state(platform):
    """The loss is finite and its gradient overflows."""
    model = ja.BigramLanguageModel(11, rngs=nnx.Rngs(0))
    optimizer = ja.make_optimizer(ja.OptimizerConfig(), 1e-2, 5)
    state = ja.TrainState.create(model, optimizer)
    broken = jax.tree.map(lambda p: p.at[0, 0].set(jnp.inf), state.params)
    state = dataclasses.replace(state, params=broken)
    after, _ = ja.train_step(state, jnp.array([[0]]), jnp.array([[1]]), optimizer)
    assert not bool(after.healthy)
    assert int(after.step) == 0


def test_a_loss_that_overflows_without_nan_is_named():
    model = ja.BigramLanguageModel(11, rngs=nnx.Rngs(0))
    optimizer = ja.make_optimizer(ja.OptimizerConfig(), 1e-2, 5)
    state = ja.TrainState.create(model, optimizer)
    far_apart = jax.tree.map(lambda p: p.at[0, 0].set(3e38).at[0, 1].set(-3e38), state.params)
    state = dataclasses.replace(state, params=far_apart)
    given = ja.GivenBatches(jnp.array([[[0]]]), jnp.array([[[1]]]), jnp.int32(0))
    after, _ = ja.train_step(state, *given.batch(jnp.int32(0)), optimizer)
    assert not bool(after.healthy)
    assert find_nan(state, given, optimizer) == "no operation gives NaN, but the loss overflows"


def test_evaluation_covers_every_token_once(x64):
    """A model of token frequencies: its loss over the whole split has a closed form."""
    model = ja.BigramLanguageModel(11, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    log_probabilities = np.asarray(jax.nn.log_softmax(model.token_embedding_table.embedding[...]))
    tokens = np.asarray(TOKENS)
    for length in (2, 9, 64, 500):
        expected = -log_probabilities[tokens[: length - 1], tokens[1:length]].mean()
        for block_size, batch_size in ((1, 1), (8, 3), (8, 64), (600, 2)):
            loss = ja.evaluate(model, TOKENS[:length], block_size=block_size, batch_size=batch_size)
            np.testing.assert_allclose(loss, expected, rtol=1e-13)


def test_evaluation_sees_the_context_inside_a_window():
    """GPT windows: the same as calling the model on each window by hand."""
    model = fresh_state().model()
    tokens = TOKENS[:21]
    losses = []
    for start in range(0, 20, 8):
        window = tokens[start : min(start + 9, 21)]
        logits = model(window[None, :-1])
        losses.append(
            -np.asarray(jax.nn.log_softmax(logits))[0, np.arange(len(window) - 1), window[1:]]
        )
    np.testing.assert_allclose(
        ja.evaluate(model, tokens, block_size=8, batch_size=2),
        np.concatenate(losses).mean(),
        rtol=1e-5,
    )


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="nothing to predict"):
        ja.evaluate(fresh_state().model(), TOKENS[:1], block_size=8)


def test_the_sampled_estimate_is_the_mean_over_its_batches():
    model = fresh_state().model()
    expected = np.mean(
        [float(ja.next_token_loss(model(x), y)) for x, y in map(BATCHES.batch, jnp.arange(7))]
    )
    np.testing.assert_allclose(ja.estimate_loss(model, BATCHES, 7), expected, rtol=1e-5)


def test_training_learns_a_pattern():
    tokens = jnp.tile(jnp.arange(11), 50)
    batches = ja.RandomBatches(tokens, jax.random.key(0), batch_size=8, block_size=8)
    config = ja.GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=3, n_embd=15)
    _, losses = ja.train_chunk(fresh_state(config), batches, OPTIMIZER, 100)
    assert losses[0] > 2.0
    assert losses[-1] < 0.1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_parameters_and_optimizer_state_stay_float32(dtype):
    state, losses = ja.train_chunk(fresh_state(dtype=dtype), BATCHES, OPTIMIZER, 3)
    assert np.isfinite(losses).all()
    assert losses.dtype == jnp.float32
    for leaf in jax.tree.leaves((state.params, state.opt_state)):
        assert leaf.dtype in (jnp.float32, jnp.int32)


def test_computing_again_instead_of_keeping_changes_nothing_but_memory():
    """With dropout on: the masks of the second computation are those of the first."""
    config = dataclasses.replace(CONFIG, n_layer=1)
    states = []
    for remat in (False, True):
        model = ja.GPT(config, rngs=nnx.Rngs(0), remat=remat)
        state, _ = ja.train_chunk(ja.TrainState.create(model, OPTIMIZER), BATCHES, OPTIMIZER, 3)
        states.append(ja.to_state_dict(state.model()))
    for name, value in states[0].items():
        np.testing.assert_allclose(value, states[1][name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert _kept_floats(remat=True) < 0.7 * _kept_floats(remat=False)


def _kept_floats(remat):
    """How many numbers the forward pass keeps for the derivative, parameters apart."""
    model = ja.GPT(dataclasses.replace(CONFIG, dropout_rate=0.0), rngs=nnx.Rngs(0), remat=remat)
    graphdef, params = nnx.split(model)
    inputs, targets = BATCHES.batch(jnp.int32(0))

    def loss(params):
        return nnx.merge(graphdef, params).loss_sum(inputs, targets)[0]

    _, derivative = jax.vjp(loss, params)
    return sum(x.size for x in jax.tree.leaves(derivative))


@pytest.mark.parametrize("tied", [True, False])
def test_a_loss_in_parts_is_the_loss(monkeypatch, tied):
    """The same steps with no room for all the logits."""
    config = dataclasses.replace(CONFIG, tie_embeddings=tied, head_bias=not tied)
    inputs, targets = BATCHES.batch(jnp.int32(0))
    found = []
    for most_logits in (1 << 26, 300):
        monkeypatch.setattr(jax_attn.nn.chunked_loss, "MOST_LOGITS", most_logits)
        loss, grads, _ = loss_and_gradients(fresh_state(config), inputs, targets)
        found.append((loss, grads))
    (loss, grads), (in_parts, grads_in_parts) = found
    np.testing.assert_allclose(in_parts, loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(grads_in_parts), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

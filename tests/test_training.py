import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_attn as ja
import jax_attn.nn.chunked_loss
from jax_attn.compiling.options import compiled
from jax_attn.training.nan_search import find_nan
from jax_attn.training.step import loss_and_gradients
from tests.small_models import filled

CONFIG = ja.GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=3, n_embd=15, dropout_rate=0.2)
OPTIMIZER = ja.make_optimizer(ja.OptimizerConfig(clip_norm=1.0), 1e-2, 20)
TOKENS = np.random.default_rng(3).integers(0, 11, 500, np.int32)
BATCHES = ja.RandomBatches(jnp.asarray(TOKENS), jax.random.key(4), batch_size=6, block_size=8)

# Compiled once for all tests: operation by operation, there would be a program for each.
gradients_of = compiled(training=True, static_argnames="accumulate_steps")(loss_and_gradients)
step_of = compiled(training=True, static_argnames="optimizer")(ja.train_step)
batch_of = jax.jit(lambda batches, step: batches.batch(step))
logits_of = jax.jit(lambda model, idx: model(idx))


@cache
def gpt(config, **options):
    return filled(lambda: ja.GPT(config, rngs=nnx.Rngs(0), **options))


def fresh_state(config=CONFIG, **options):
    return ja.TrainState.create(gpt(config, **options), OPTIMIZER)


@cache
def single_head(**options):
    return filled(lambda: ja.SingleHeadLanguageModel(11, 8, 15, 5, rngs=nnx.Rngs(0), **options))


def small_state(optimizer=OPTIMIZER, **options):
    """For what is the same with any model: this one's programs take half as long to compile."""
    return ja.TrainState.create(single_head(**options), optimizer)


@cache
def first_batches(n):
    """Inputs and targets [n B T] of the first steps."""
    batches = [batch_of(BATCHES, np.int32(step)) for step in range(n)]
    inputs, targets = (np.stack(arrays) for arrays in zip(*batches, strict=True))
    return inputs, targets


def bigram_state(optimizer, *first_logits):
    """A bigram model's, whose table begins with these numbers."""
    model = filled(lambda: ja.BigramLanguageModel(11, rngs=nnx.Rngs(0)))
    state = ja.TrainState.create(model, optimizer)

    def changed(table):
        table = np.array(table)
        table[0, : len(first_logits)] = first_logits
        return jnp.asarray(table)

    return dataclasses.replace(state, params=jax.tree.map(changed, state.params))


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def losses_of(logits, targets):
    """In nats, of every position."""
    return -np.take_along_axis(log_softmax(logits), np.asarray(targets)[..., None], -1)[..., 0]


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


def run_by_one_program(*counts):
    """Twenty steps, so many at a time."""
    state, losses = fresh_state(), []
    for count in counts:
        state, some = ja.train_chunk(state, BATCHES, OPTIMIZER, 20, count=np.int32(count))
        losses.append(np.asarray(some)[:count])
        assert not np.asarray(some)[count:].any()
    return bits(state), np.concatenate(losses).tobytes()


def look(state):
    ja.evaluate(state.model(), TOKENS, block_size=8)


def test_the_length_of_a_chunk_changes_no_bit_and_looking_in_between_neither():
    """With dropout on: parameters, optimizer state, random state and every loss."""
    expected = run_in_chunks(20)
    assert run_in_chunks(1) == expected
    assert run_in_chunks(5, look) == expected
    assert run_by_one_program(1, 12, 0, 7) == expected


def test_another_seed_gives_other_batches_and_other_bits():
    others = dataclasses.replace(BATCHES, key=jax.random.key(5))
    state, _ = ja.train_chunk(fresh_state(), others, OPTIMIZER, 5)
    same, _ = ja.train_chunk(fresh_state(), BATCHES, OPTIMIZER, 5)
    assert bits(state) != bits(same)


def test_a_compiled_step_is_an_eager_step():
    state = bigram_state(OPTIMIZER, 0.5)
    inputs, targets = batch_of(BATCHES, np.int32(0))
    with jax.disable_jit():
        eager, eager_loss = ja.train_step(state, inputs, targets, OPTIMIZER)
    compiled, losses = ja.train_chunk(state, BATCHES, OPTIMIZER, 1)
    np.testing.assert_allclose(losses[0], eager_loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(compiled.params), jax.tree.leaves(eager.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_given_batches_are_random_batches_written_down():
    given = ja.GivenBatches(*map(jnp.asarray, first_batches(5)), np.int32(0))
    state, losses = ja.train_chunk(small_state(), given, OPTIMIZER, 5)
    expected, expected_losses = ja.train_chunk(small_state(), BATCHES, OPTIMIZER, 5)
    np.testing.assert_array_equal(losses, expected_losses)
    assert bits(state) == bits(expected)


def test_targets_are_the_inputs_moved_on_by_one():
    numbered = ja.RandomBatches(np.arange(100), jax.random.key(0), batch_size=64, block_size=7)
    inputs, targets = map(np.asarray, batch_of(numbered, np.int32(3)))
    np.testing.assert_array_equal(targets, inputs + 1)
    np.testing.assert_array_equal(np.diff(inputs, axis=1), 1)
    assert inputs.dtype == targets.dtype == jnp.int32


def test_every_window_can_be_drawn_and_none_reaches_past_the_end():
    numbered = ja.RandomBatches(np.arange(10), jax.random.key(0), batch_size=500, block_size=7)
    inputs, targets = map(np.asarray, batch_of(numbered, np.int32(0)))
    assert set(inputs[:, 0]) == {0, 1, 2}
    assert int(targets.max()) == 9


def test_accumulation_gives_the_whole_batchs_gradient(x64):
    state = small_state(param_dtype=jnp.float64)
    inputs, targets = (batches[0] for batches in first_batches(5))
    # Parts with unequal numbers of counted targets: a mean of means would be wrong.
    targets = targets.copy()
    targets[0] = targets[1, :5] = -1
    loss, gradients, _ = gradients_of(state, inputs, targets)
    parts_loss, parts_gradients, _ = gradients_of(state, inputs, targets, accumulate_steps=3)
    np.testing.assert_allclose(parts_loss, loss, rtol=1e-14)
    for a, b in zip(jax.tree.leaves(parts_gradients), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-15)


def test_dropout_differs_from_step_to_step_and_is_off_in_evaluation():
    state = fresh_state()
    inputs, targets = batch_of(BATCHES, np.int32(0))
    first, _, rest = gradients_of(state, inputs, targets)
    second, _, _ = gradients_of(dataclasses.replace(state, rest=rest), inputs, targets)
    again, _, _ = gradients_of(state, inputs, targets)
    assert float(first) == float(again) != float(second)
    model = state.model()
    assert ja.evaluate(model, TOKENS, block_size=8) == ja.evaluate(model, TOKENS, block_size=8)


@pytest.fixture(params=["cpu", "default"])
def optimizer(request, monkeypatch):
    """Everything is done as on a CPU, where the tests run, or as it is on other devices.

    Programs are made for one optimizer: nobody else finds those of another device.
    """
    if request.param == "cpu":
        return OPTIMIZER
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, default, **_: default(*args))
    return ja.make_optimizer(ja.OptimizerConfig(clip_norm=1.0), 1e-2, 20)


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(optimizer):
    """Batch 2 of 5 is poisoned by an id outside the vocabulary."""
    inputs, targets = map(np.copy, first_batches(5))
    inputs[2, 0, 0] = 11
    given = ja.GivenBatches(jnp.asarray(inputs), jnp.asarray(targets), np.int32(0))
    state, losses = ja.train_chunk(small_state(optimizer), given, optimizer, 5)
    good = small_state(optimizer)
    for _ in range(2):
        good, _ = ja.train_chunk(good, BATCHES, optimizer, 1)
    losses = np.asarray(losses)
    assert not bool(state.healthy)
    assert int(state.step) == 2
    assert np.isfinite(losses[:2]).all()
    assert np.isnan(losses[2])
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(good.params), strict=True):
        np.testing.assert_array_equal(a, b)


ONE_PAIR = np.array([[0]], np.int32), np.array([[1]], np.int32)


def test_a_gradient_that_is_not_finite_keeps_the_last_good_state(optimizer):
    """The loss is finite and its gradient overflows."""
    after, _ = step_of(bigram_state(optimizer, np.inf), *ONE_PAIR, optimizer=optimizer)
    assert not bool(after.healthy)
    assert int(after.step) == 0


def test_a_loss_that_overflows_without_nan_is_named():
    state = bigram_state(OPTIMIZER, 3e38, -3e38)
    after, _ = step_of(state, *ONE_PAIR, optimizer=OPTIMIZER)
    assert not bool(after.healthy)
    given = ja.GivenBatches(*(jnp.asarray(array[None]) for array in ONE_PAIR), jnp.int32(0))
    assert find_nan(state, given, OPTIMIZER) == "no operation gives NaN, but the loss overflows"


def test_evaluation_covers_every_token_once(x64):
    """A model of token frequencies: its loss over the whole split has a closed form."""
    model = filled(lambda: ja.BigramLanguageModel(11, rngs=nnx.Rngs(0), param_dtype=jnp.float64))
    table = log_softmax(model.token_embedding_table.embedding[...])
    for length in (2, 9, 64, 500):
        expected = -table[TOKENS[: length - 1], TOKENS[1:length]].mean()
        for block_size, batch_size in ((1, 1), (8, 3), (600, 2)):
            loss = ja.evaluate(model, TOKENS[:length], block_size=block_size, batch_size=batch_size)
            np.testing.assert_allclose(loss, expected, rtol=1e-13)


def test_evaluation_sees_the_context_inside_a_window():
    """GPT windows: the same as calling the model on each window by hand, the last one half full."""
    model, losses = gpt(CONFIG), []
    for start in (0, 8, 16):
        inputs, targets = TOKENS[start : start + 8], TOKENS[start + 1 : min(start + 9, 21)]
        logits = logits_of(model, inputs[None])[0, : len(targets)]
        losses.append(losses_of(logits, targets))
    np.testing.assert_allclose(
        ja.evaluate(model, TOKENS[:21], block_size=8, batch_size=2),
        np.concatenate(losses).mean(),
        rtol=1e-5,
    )


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="nothing to predict"):
        ja.evaluate(gpt(CONFIG), TOKENS[:1], block_size=8)


def test_the_sampled_estimate_is_the_mean_over_its_batches():
    model = gpt(CONFIG)
    losses = [losses_of(logits_of(model, x), y) for x, y in zip(*first_batches(7), strict=True)]
    np.testing.assert_allclose(ja.estimate_loss(model, BATCHES, 7), np.mean(losses), rtol=1e-5)


def test_training_learns_a_pattern():
    pattern = (np.arange(500) % 11).astype(np.int32)
    batches = dataclasses.replace(BATCHES, tokens=jnp.asarray(pattern))
    state = fresh_state()
    assert ja.evaluate(state.model(), pattern, block_size=8) > 2.0
    for _ in range(10):
        state, _ = ja.train_chunk(state, batches, OPTIMIZER, 20)
    assert ja.evaluate(state.model(), pattern, block_size=8) < 0.1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, None])
def test_parameters_and_optimizer_state_stay_float32(dtype):
    config = CONFIG if dtype is None else dataclasses.replace(CONFIG, dropout_rate=0.0)
    state, losses = ja.train_chunk(fresh_state(config, dtype=dtype), BATCHES, OPTIMIZER, 5)
    assert np.isfinite(losses).all()
    assert losses.dtype == jnp.float32
    for leaf in jax.tree.leaves((state.params, state.opt_state)):
        assert leaf.dtype in (jnp.float32, jnp.int32)


def test_computing_again_instead_of_keeping_changes_nothing_but_memory():
    """With dropout on: the masks of the second computation are those of the first."""
    states = []
    for options in ({}, {"remat": True}):
        state, _ = ja.train_chunk(fresh_state(**options), BATCHES, OPTIMIZER, 5)
        states.append(ja.to_state_dict(state.model()))
    for name, value in states[0].items():
        np.testing.assert_allclose(value, states[1][name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert _kept_floats(remat=True) < 0.7 * _kept_floats(remat=False)


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_a_model_that_computes_again_is_sampled_from_like_any_other(rate):
    """Inside loops, where it is a surrounding function's model."""
    config = dataclasses.replace(CONFIG, dropout_rate=rate)
    prompt, key = jnp.asarray(TOKENS[None, :3]), jax.random.key(0)
    texts = [ja.generate(gpt(config, remat=r), prompt, 9, key=key) for r in (False, True)]
    np.testing.assert_array_equal(*texts)


def _kept_floats(remat):
    """How many numbers the forward pass keeps for the derivative, parameters apart."""
    model = gpt(dataclasses.replace(CONFIG, n_layer=2, dropout_rate=0.0), remat=remat)
    graphdef, params = nnx.split(model)

    def derivative(params, inputs, targets):
        return jax.vjp(lambda p: nnx.merge(graphdef, p).loss_sum(inputs, targets)[0], params)[1]

    kept = jax.eval_shape(derivative, params, *batch_of(BATCHES, np.int32(0)))
    return sum(x.size for x in jax.tree.leaves(kept))


@pytest.mark.parametrize("tied", [True, False])
def test_a_loss_in_parts_is_the_loss(monkeypatch, tied):
    """The same steps with no room for all the logits."""
    config = dataclasses.replace(CONFIG, dropout_rate=0.0, tie_embeddings=tied, head_bias=not tied)
    state, batch = fresh_state(config), batch_of(BATCHES, np.int32(0))
    loss, grads, _ = gradients_of(state, *batch)
    monkeypatch.setattr(jax_attn.nn.chunked_loss, "MOST_LOGITS", 300)
    anew = compiled(training=True)(lambda *args: loss_and_gradients(*args))
    in_parts, grads_in_parts, _ = anew(state, *batch)
    np.testing.assert_allclose(in_parts, loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(grads_in_parts), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

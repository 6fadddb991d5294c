"""What is counted in programs that are compiled for this machine's CPU."""

import jax
from flax import nnx

import jax_attn as ja

BATCH, LENGTH, WIDTH = 2, 256, 96


def temporaries(n_layer):
    """Bytes, of a training program."""
    config = ja.GPTConfig.lecture(
        vocab_size=65, dropout_rate=0.0, n_layer=n_layer, n_head=2, n_embd=WIDTH
    )
    optimizer = ja.make_optimizer(ja.OptimizerConfig(), 1e-3, 10)
    state = jax.eval_shape(
        lambda: ja.TrainState.create(ja.GPT(config, rngs=nnx.Rngs(0)), optimizer)
    )
    ids = jax.ShapeDtypeStruct((10, BATCH, LENGTH), "int32")
    batches = ja.GivenBatches(ids, ids, jax.ShapeDtypeStruct((), "int32"))
    program = ja.train_chunk.lower(state, batches, optimizer, 10).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_a_block_keeps_little_for_the_derivative():
    """In numbers for each of a token's channels.

    The two norms' results are 2, q, k, v are 3, attention's result, by heads and joined, is 2, that
    of the activation 4, the residual stream 2. Each of these would be 4 or more: ReLU's input,
    attention's weights, copies of Adam's moments.
    """
    more = temporaries(4) - temporaries(2)
    assert more / (2 * BATCH * LENGTH * WIDTH * 4) < 14

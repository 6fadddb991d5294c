"""Programs compiled ahead are those that are used later: none is compiled again."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn import RandomBatches, TrainState, generate, make_optimizer
from jax_attn.compiling.precision import products
from jax_attn.config import BigramShape, GPTShape, TrainConfig
from jax_attn.data import CharTokenizer
from jax_attn.generate.known_ids import known_ids
from jax_attn.nn.flash import Accelerator, compiling_for
from jax_attn.runs.ahead import CompiledAhead
from jax_attn.runs.build_model import build_model
from jax_attn.runs.report import evaluate_split, sampling

COMPILING = "/jax/core/compile/backend_compile_duration"
BIGRAM = TrainConfig(
    BigramShape(),
    steps=10,
    batch_size=4,
    block_size=8,
    learning_rate=1e-3,
    eval_every=10,
    checkpoint_every=10,
    sample_tokens=5,
)
SMALL_GPT = replace(BIGRAM, model=GPTShape(n_layer=1, n_head=2, n_embd=8))
TOKENS = jnp.zeros(1_001, jnp.uint8)


def ahead_of(config, tokens=TOKENS):
    optimizer = make_optimizer(config.optimizer, config.learning_rate, config.steps)
    state = TrainState.create(build_model(config, 65), optimizer)
    shapes = jax.eval_shape(lambda: state)
    batches = RandomBatches(tokens, jax.random.key(0), config.batch_size, config.block_size)
    return CompiledAhead(shapes, batches, optimizer, 2, config), state, batches


@pytest.mark.parametrize(
    "config",
    [BIGRAM, SMALL_GPT, replace(BIGRAM, precision="high")],
    ids=["bigram", "gpt", "precision"],
)
def test_nothing_is_left_to_compile(config):
    with products(config):
        nothing_is_left_to_compile(config)


def nothing_is_left_to_compile(config):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **about: compiled.append(about.get("fun_name")) if name == COMPILING else 0
    )
    begin, length, key = sampling(config)
    ahead, state, batches = ahead_of(config)
    ahead.wait()
    train_chunk, _ = ahead.training.result()
    of_ahead = len(compiled)
    for length_of_split in (5_001, 700):
        evaluate_split(state.model(), np.zeros(length_of_split, np.uint8), config)
    model = state.model()
    known = known_ids(CharTokenizer("ab"), model)  # one with fewer symbols than the model has ids
    assert 2 == known.sum() < len(known)
    generate(model, begin, length, key=key, allowed=known)
    train_chunk(state, batches, np.int32(2))
    assert of_ahead >= 4
    assert compiled[of_ahead:] == []


def test_what_compiling_raises_is_raised_where_the_program_is_asked_for():
    ahead, _, _ = ahead_of(BIGRAM, tokens=jnp.uint8(0))
    ahead.wait()
    with pytest.raises(IndexError):
        ahead.training.result()


@pytest.mark.parametrize(
    ("device", "programs"),
    [(None, 2), (Accelerator("tpu"), 2), (Accelerator("cuda", 9.0), 0), (Accelerator("rocm"), 0)],
)
def test_on_a_gpu_nothing_disturbs_the_stopwatch(device, programs):
    with compiling_for(device):
        ahead, _, _ = ahead_of(BIGRAM)
    assert len(ahead._others) == programs
    ahead.wait()
    ahead.training.result()

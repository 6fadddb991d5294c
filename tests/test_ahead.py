"""Programs compiled ahead are those that are used later: none is compiled again."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from jax_attn import TrainState, generate, make_optimizer
from jax_attn.ahead import compile_ahead
from jax_attn.config import BigramShape, GPTShape, TrainConfig
from jax_attn.models import build_model
from jax_attn.report import evaluate_split, sampling

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


def state_of(config):
    optimizer = make_optimizer(config.optimizer, config.learning_rate, config.steps)
    return TrainState.create(build_model(config, 65), optimizer)


@pytest.mark.parametrize("config", [BIGRAM, SMALL_GPT], ids=["bigram", "gpt"])
def test_nothing_is_left_to_compile(config):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **about: compiled.append(about.get("fun_name")) if name == COMPILING else 0
    )
    state = state_of(config)
    train, validation = jnp.zeros(5_001, jnp.uint8), jnp.zeros(1_001, jnp.uint8)
    begin, length, key = sampling(config)

    wait = compile_ahead(state, train, validation, config)
    wait()
    ahead = len(compiled)
    evaluate_split(state, train, config)
    evaluate_split(state, validation, config)
    generate(state.model(), begin, length, key=key)
    assert ahead >= 4
    assert compiled[ahead:] == []


def test_waiting_raises_what_compiling_raised():
    state = state_of(BIGRAM)
    no_tokens = jnp.zeros((), jnp.uint8)
    with pytest.raises(IndexError):
        compile_ahead(state, jnp.zeros(5, jnp.uint8), no_tokens, BIGRAM)()

"""500 training steps of a GPT with dropout, on the masks, batches and weights that torch draws.

torch runs as it always does, from `manual_seed`; nothing is forced on it. This package replays its
stream: weights, then batch and masks of each step in turn.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.typing import DTypeLike
from numpy.typing import NDArray

import torch_ref
from jax_attn import (
    GPT,
    Generator,
    GPTConfig,
    OptimizerConfig,
    TrainState,
    make_optimizer,
    train_chunk,
)
from jax_attn.lecture import lecture_corpus
from jax_attn.torch_replay.dropout_tape import DropoutTape
from jax_attn.torch_replay.replay import initialise, lecture_batches

SEED, STEPS, CHUNK, BATCH, LEARNING_RATE = 1337, 500, 250, 8, 1e-3
CONFIG = GPTConfig(vocab_size=65, block_size=16, n_layer=2, n_head=2, n_embd=32, dropout_rate=0.2)

# float64: the same function. Measured 3.3e-15 at the worst step.
LARGEST_RELATIVE_DIFFERENCE = 1e-12
# float32: training amplifies roundings, torch's own as much as ours: over 500 steps torch's losses
# wander from the float64 ones by up to 0.8 %, ours by up to 1.1 %. Ours may wander up to
# so many times as far as torch's, in the root mean square.
K_TRAJECTORY = 4


def torch_losses(dtype: torch.dtype) -> NDArray[np.float64]:
    torch.manual_seed(SEED)
    model = torch_ref.GPTLanguageModel(
        CONFIG.vocab_size,
        CONFIG.block_size,
        CONFIG.n_layer,
        CONFIG.n_head,
        CONFIG.n_embd,
        CONFIG.dropout_rate,
    ).to(dtype)
    optimizer = torch_ref.make_optimizer(model, LEARNING_RATE)
    data = torch.from_numpy(lecture_corpus().train.astype(np.int64))
    losses = []
    for _ in range(STEPS):
        batch = torch_ref.get_batch(data, CONFIG.block_size, BATCH)
        losses.append(torch_ref.train_step(model, optimizer, *batch).item())
    return np.array(losses)


def jax_losses(dtype: DTypeLike) -> NDArray[np.float64]:
    generator = Generator(SEED)
    model = initialise(GPT(CONFIG, rngs=nnx.Rngs(0), param_dtype=dtype), generator)
    tape = DropoutTape(model)
    optimizer = make_optimizer(OptimizerConfig(), LEARNING_RATE, STEPS)
    state = TrainState.create(model, optimizer)
    tokens = lecture_corpus().train
    losses = []
    for step in range(0, STEPS, CHUNK):
        batches = lecture_batches(
            generator, tokens, CONFIG.block_size, BATCH, CHUNK, first_step=step, tape=tape
        )
        state, some = train_chunk(tape.load(state), batches, optimizer, CHUNK)
        assert some.dtype == dtype
        losses.append(np.asarray(some, np.float64))
    return np.concatenate(losses)


def rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


@pytest.fixture(scope="module")
def oracle() -> NDArray[np.float64]:
    """The losses of torch in float64."""
    return torch_losses(torch.float64)


def test_float64_losses_are_the_same_function(oracle: NDArray[np.float64]) -> None:
    with jax.enable_x64(True):
        ours = jax_losses(jnp.float64)
    relative = np.abs(ours - oracle) / oracle
    print(f"float64, {STEPS} steps: largest relative difference {relative.max():.1e}")
    assert relative.max() <= LARGEST_RELATIVE_DIFFERENCE
    assert oracle[-50:].mean() < 0.8 * oracle[0]  # and it did train


def test_float32_losses_wander_no_further_than_torchs(oracle: NDArray[np.float64]) -> None:
    theirs, ours = torch_losses(torch.float32), jax_losses(jnp.float32)
    ratio = rms(ours - oracle) / rms(theirs - oracle)
    print(
        f"float32, {STEPS} steps: from float64 by {rms(theirs - oracle):.1e} nats (torch), "
        f"{rms(ours - oracle):.1e} (jax_attn), {ratio:.2f} times as far"
    )
    assert ratio <= K_TRAJECTORY
    # Before roundings have grown the two are the same to float32.
    np.testing.assert_allclose(ours[:10], theirs[:10], rtol=1e-5)

"""A torch script's weights, batches, dropout masks and samples, replayed: 0 ulp, the same text."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import torch_ref
from jax_attn import (
    GPT,
    BigramLanguageModel,
    Generator,
    GPTConfig,
    OptimizerConfig,
    SingleHeadLanguageModel,
    TrainState,
    make_optimizer,
    to_state_dict,
    train_chunk,
)
from jax_attn.torch_replay.dropout_tape import DropoutTape, TapeDropout, draw_masks
from jax_attn.torch_replay.replay import generate, initialise, lecture_batches
from parity_tests.torch_streams import assert_same

TOKENS = np.random.default_rng(0).integers(0, 11, 400).astype(np.uint8)
MakeReference = Callable[[], torch.nn.Module]
GPT_SIZES = {"vocab_size": 11, "block_size": 7, "n_layer": 2, "n_head": 3, "n_embd": 15}


def gpt_pair(dtype: Any = jnp.float32, **options: Any) -> tuple[MakeReference, GPT]:
    sizes: dict[str, Any] = GPT_SIZES | options
    rate = sizes.pop("dropout_rate", 0.0)
    config = GPTConfig(**sizes, dropout_rate=rate)
    return (
        lambda: torch_ref.GPTLanguageModel(**sizes, dropout=rate),
        GPT(config, rngs=nnx.Rngs(0), param_dtype=dtype),
    )


# How torch makes the model, and this package's model of the same shape, in a given dtype.
PAIRS: dict[str, Callable[..., tuple[MakeReference, Any]]] = {
    "bigram": lambda dtype=jnp.float32: (
        lambda: torch_ref.BigramLanguageModel(11),
        BigramLanguageModel(11, rngs=nnx.Rngs(0), param_dtype=dtype),
    ),
    "head": lambda dtype=jnp.float32: (
        lambda: torch_ref.SingleHeadLanguageModel(11, 7, 5, 3),
        SingleHeadLanguageModel(11, 7, 5, 3, rngs=nnx.Rngs(0), param_dtype=dtype),
    ),
    "gpt": gpt_pair,
    "gpt with every option": partial(
        gpt_pair,
        dropout_rate=0.2,
        activation="gelu_tanh",
        qkv_bias=True,
        tie_embeddings=True,
        head_bias=False,
    ),
    "gpt of other parts": partial(
        gpt_pair, linear_bias=False, norm_bias=False, attention_scale=0.3, n_inner=11
    ),
    # Fewer than 16 values are drawn in pairs, and the second of a pair may wait for the next layer.
    "gpt of tiny layers": partial(gpt_pair, vocab_size=3, block_size=3, n_embd=3, n_head=3),
    "lecture": lambda: (torch_ref.GPTLanguageModel, GPT(GPTConfig.lecture(), rngs=nnx.Rngs(0))),
}


def torch_generate(model: Any, prompt: np.ndarray, max_new_tokens: int) -> np.ndarray:
    return model.generate(torch.from_numpy(prompt), max_new_tokens).numpy()


def change_parameters(model: nnx.Module, change: Callable[[jax.Array], jax.Array]) -> None:
    nnx.update(model, jax.tree.map(change, nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("seed", [1337, 2])
def test_initial_weights(name: str, seed: int) -> None:
    make_reference, model = PAIRS[name]()
    torch.manual_seed(seed)
    reference = make_reference()
    generator = Generator(seed)
    ours = to_state_dict(initialise(model, generator), layout="lecture")
    theirs = reference.state_dict()
    assert ours.keys() == theirs.keys()
    for parameter, value in theirs.items():
        assert_same(ours[parameter], value, parameter)
    assert_same(generator.randn(3), torch.randn(3))  # and the stream goes on where torch's does


def test_initial_weights_forget_what_the_model_was() -> None:
    _, model = gpt_pair()
    change_parameters(model, lambda value: value + 1)
    fresh = to_state_dict(initialise(gpt_pair()[1], Generator(3)))
    again = to_state_dict(initialise(model, Generator(3)))
    assert all(np.array_equal(again[name], fresh[name]) for name in fresh)


@pytest.mark.parametrize("seed", [1337, 2])
def test_batches(seed: int) -> None:
    torch.manual_seed(seed)
    data = torch.from_numpy(TOKENS.astype(np.int64))
    theirs = [torch_ref.get_batch(data, 7, 5) for _ in range(4)]
    generator = Generator(seed)
    ours = lecture_batches(generator, TOKENS, 7, 5, n_steps=4, first_step=10)
    for step, (inputs, targets) in enumerate(theirs):
        batch = ours.batch(jnp.asarray(10 + step))
        np.testing.assert_array_equal(batch[0], inputs)
        np.testing.assert_array_equal(batch[1], targets)
    assert_same(generator.rand(3), torch.rand(3))


@pytest.mark.parametrize(
    "name", ["bigram", "head", "gpt", "gpt with every option", "gpt of other parts"]
)
@pytest.mark.parametrize("prompt_length", [1, 5, 12])
def test_sampled_text(name: str, prompt_length: int) -> None:
    """Two rows at once, past the block size, from peaked and flat distributions alike."""
    make_reference, model = PAIRS[name]()
    torch.manual_seed(4)
    reference = make_reference().eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(3)
    generator = Generator(4)
    initialise(model, generator)
    change_parameters(model, lambda value: value * 3)
    prompt = TOKENS[: 2 * prompt_length].reshape(2, prompt_length).astype(np.int64)
    theirs = torch_generate(reference, prompt, 60)
    np.testing.assert_array_equal(generate(model, prompt, 60, generator), theirs)
    assert_same(generator.rand(3), torch.rand(3))


@pytest.mark.parametrize("name", ["bigram", "head", "gpt"])
def test_a_whole_script(name: str) -> None:
    """Seed, model, 60 steps of training, 100 tokens: the losses and the text of torch.

    In float64, where no rounding grows large enough in training to part the two.
    """
    with jax.enable_x64(True):
        make_reference, model = PAIRS[name](jnp.float64)
        torch.manual_seed(6)
        reference = make_reference().double()
        torch_optimizer = torch_ref.make_optimizer(reference, 1e-2)
        data = torch.from_numpy(TOKENS.astype(np.int64))
        theirs = [
            torch_ref.train_step(reference, torch_optimizer, *torch_ref.get_batch(data, 7, 5))
            for _ in range(60)
        ]
        their_text = torch_generate(reference, np.zeros((1, 1), np.int64), 100)

        generator = Generator(6)
        initialise(model, generator)
        optimizer = make_optimizer(OptimizerConfig(), 1e-2, 60)
        batches = lecture_batches(generator, TOKENS, 7, 5, n_steps=60)
        state, ours = train_chunk(TrainState.create(model, optimizer), batches, optimizer, 60)
        our_text = generate(state.model(), np.zeros((1, 1), np.int32), 100, generator)
    np.testing.assert_allclose(ours, torch.stack(theirs), rtol=1e-11)
    np.testing.assert_array_equal(our_text, their_text)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5])
def test_dropout_masks_of_a_forward_pass(rate: float) -> None:
    """What torch_ref's dropouts let through, caught by hooks, in the order they draw."""
    make_reference, model = gpt_pair(dropout_rate=rate)
    reference = make_reference().train()
    caught: list[tuple[Any, Any]] = []
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda _, before, after: caught.append((before[0], after)))
    torch.manual_seed(8)
    reference(torch.from_numpy(TOKENS[:14].reshape(2, 7).astype(np.int64)))
    generator = Generator(8)
    ours = draw_masks(generator, model.config, 2, 7)
    flat: list[np.ndarray] = []
    for mask in ours:
        flat += list(mask.swapaxes(0, 1)) if mask.ndim == 4 else [mask]
    assert len(flat) == len(caught) == 2 * (3 + 2)
    for mask, (before, after) in zip(flat, caught, strict=True):
        # Where the input is 0, as above the diagonal, the output cannot tell.
        silent = (before == 0).numpy()
        np.testing.assert_array_equal(mask | silent, (after != 0).numpy() | silent)
    assert_same(generator.rand(3), torch.rand(3))


def test_a_tape_that_has_run_out_is_reported() -> None:
    """Two steps on the masks of one."""
    _, model = gpt_pair(dropout_rate=0.2)
    tape = DropoutTape(model)
    optimizer = make_optimizer(OptimizerConfig(), 1e-3, 2)
    state = TrainState.create(model, optimizer)
    batches = lecture_batches(Generator(1), TOKENS, 7, 5, n_steps=2)
    tape.record(Generator(2), 5, 7)
    state, losses = train_chunk(tape.load(state), batches, optimizer, 2)
    assert np.isfinite(losses[0])
    assert np.isnan(losses[1])
    assert not state.healthy
    assert tape.passes == []


def test_a_taped_model_drops_nothing_in_evaluation() -> None:
    _, model = gpt_pair(dropout_rate=0.2)
    idx = jnp.asarray(TOKENS[:14].reshape(2, 7), jnp.int32)
    before = model(idx)
    DropoutTape(model)
    assert isinstance(model.blocks[0].ffwd.dropout, TapeDropout)
    np.testing.assert_array_equal(model(idx), before)

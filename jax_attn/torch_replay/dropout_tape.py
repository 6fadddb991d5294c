"""Dropout from a tape: the masks that torch draws for the lecture's GPT, replayed by `GPT`."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from jax_attn.config import GPTConfig
from jax_attn.models.gpt import GPT
from jax_attn.torch_replay.random import Generator
from jax_attn.training.step import TrainState

Masks = list[Bool[np.ndarray, "..."]]  # of one forward pass: as `_dropouts` orders the modules


class DropoutReplay(nnx.Variable):
    """Masks and how many of them are used up: state, but no parameter."""


class TapeDropout(nnx.Dropout):
    """Dropout whose i-th call in training mode keeps what `kept[i]` says.

    A call past the tape's end gives NaN, which `train_step` reports as unhealthy.
    """

    def __init__(self, rate: float) -> None:
        super().__init__(rate, deterministic=True)
        # One mask, used up: checkpoints hold no arrays without elements.
        self.kept = DropoutReplay(jnp.zeros((1,), bool))  # [calls, *shape of the input]
        self.calls = DropoutReplay(jnp.ones((), jnp.int32))

    def __call__(
        self, inputs: Float[Array, "..."], *, deterministic=None, rngs=None
    ) -> Float[Array, "..."]:
        del deterministic, rngs
        if self.deterministic:
            return inputs
        kept, call = self.kept[...], self.calls[...]
        self.calls[...] = call + 1
        scale = jnp.where(call < kept.shape[0], 1 / (1 - self.rate), jnp.nan)
        return inputs * kept[call] * scale.astype(inputs.dtype)


def replay_dropout(model: GPT) -> None:
    """Swaps the dropouts of `model` for `TapeDropout`s without masks."""
    rate = model.config.dropout_rate
    for block in model.blocks:
        block.sa.attention_dropout = TapeDropout(rate)
        block.sa.output_dropout = TapeDropout(rate)
        block.ffwd.dropout = TapeDropout(rate)


class DropoutTape:
    """Records the masks of coming steps from a stream, then hands them to a training state.

    Making one swaps the dropouts of `model` for `TapeDropout`s, so make it before the state::

        tape = DropoutTape(model)
        state = TrainState.create(model, optimizer)
        batches = lecture_batches(generator, tokens, T, B, n_steps, tape=tape)
        state, losses = train_chunk(tape.load(state), batches, optimizer, n_steps)
    """

    def __init__(self, model: GPT) -> None:
        replay_dropout(model)
        self.config = model.config
        self.passes: list[Masks] = []  # recorded, not yet loaded

    def record(self, generator: Generator, batch_size: int, length: int) -> None:
        """Draws the masks of one training step on `batch_size` sequences of `length` tokens."""
        self.passes.append(draw_masks(generator, self.config, batch_size, length))

    def load(self, state: TrainState) -> TrainState:
        """`state` with the recorded passes as its next steps' masks; the tape is then empty."""
        masks = [np.stack(kept) for kept in zip(*self.passes, strict=True)]
        self.passes = []
        return _with_masks(state, masks, used=0)

    def unload(self, state: TrainState) -> TrainState:
        """`state` without masks, as it was created."""
        model = nnx.merge(state.graphdef, state.params, state.rest)
        return _with_masks(state, [np.zeros((1,), np.bool_)] * len(_dropouts(model)), used=1)


def _with_masks(state: TrainState, masks: Masks, used: int) -> TrainState:
    model = nnx.merge(state.graphdef, state.params, state.rest, copy=True)
    for dropout, kept in zip(_dropouts(model), masks, strict=True):
        dropout.kept.set_value(jnp.asarray(kept))
        dropout.calls.set_value(jnp.full((), used, jnp.int32))
    _, _, rest = nnx.split(model, nnx.Param, ...)
    return replace(state, rest=rest)


def draw_masks(generator: Generator, config: GPTConfig, batch_size: int, length: int) -> Masks:
    """What the dropouts of one forward pass of the lecture's GPT keep, in the order of its draws.

    Layer by layer: the attention weights of one head after the other, the attention's output, the
    feed-forward's output.
    """
    rate = config.dropout_rate
    masks: Masks = []
    for _ in range(config.n_layer):
        heads = [
            generator.dropout_mask(rate, (batch_size, length, length)) for _ in range(config.n_head)
        ]
        masks.append(np.stack(heads, axis=1))  # [B H T T]
        for _ in ("attention output", "feed-forward output"):
            masks.append(generator.dropout_mask(rate, (batch_size, length, config.n_embd)))
    return masks


def _dropouts(model: GPT) -> list[TapeDropout]:
    modules = [
        module
        for block in model.blocks
        for module in (block.sa.attention_dropout, block.sa.output_dropout, block.ffwd.dropout)
    ]
    return [module for module in modules if isinstance(module, TapeDropout)]

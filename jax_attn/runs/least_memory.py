"""Sizes that cannot be held, refused before a run's folder is made and anything is compiled."""

from __future__ import annotations

from jax_attn.config import GPTShape, HeadShape, ModelShape, TrainConfig
from jax_attn.room import require_room

STATE_BYTES = 3 * 4  # of a parameter and its two moments, float32
TOKEN_BYTES = 3 * 4  # of a batch's token: its place in the text, input and target
SAMPLE_COPIES = 3  # as `generate` has


def require_memory(config: TrainConfig) -> None:
    """InputError where the least that a run needs is more than there is; what fits may not do."""
    tokens = config.batch_size * (config.block_size + 1)
    require_room(
        STATE_BYTES * _least_parameters(config.model, config.block_size),
        "the model's parameters and their moments",
    )
    require_room(TOKEN_BYTES * tokens, f"a batch of {config.batch_size:,} sequences")
    require_room(
        SAMPLE_COPIES * 4 * config.sample_tokens, f"a sample of {config.sample_tokens:,} tokens"
    )


def _least_parameters(shape: ModelShape, block_size: int) -> int:
    """Those of the matrices, without the vocabulary's."""
    if isinstance(shape, GPTShape):
        inner = shape.n_inner or 4 * shape.n_embd
        a_layer = 4 * shape.n_embd + 2 * inner
        return shape.n_embd * (shape.n_layer * a_layer + block_size + shape.vocab_size)
    if isinstance(shape, HeadShape):
        return shape.n_embd * (3 * shape.head_size + block_size)
    return 0

"""What logits in bfloat16 change: `python -m benchmarks.rounded_logits`.

On accelerators the logits of a large vocabulary are rounded to bfloat16 in training
(`jax_attn.nn.chunked_loss`). Here the same 200 steps run with and without, on whatever device there
is, and the rounding is made sure of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jax_attn as ja
from benchmarks.estimate import about, read_command_line
from jax_attn.nn import chunked_loss

STEPS, BATCH_SIZE, BLOCK_SIZE = 200, 12, 64
BFLOAT16_BITS = {"exponent_bits": 8, "mantissa_bits": 7}


def texts() -> dict[str, np.ndarray]:
    """The corpus as characters, and as pairs of characters: a vocabulary of some thousand."""
    corpus = ja.load_corpus("tinyshakespeare", warn=print)
    tokens = np.concatenate([corpus.train, corpus.validation]).astype(np.int32)
    tokens = tokens[: len(tokens) // 2 * 2]
    pairs = tokens[::2] * corpus.tokenizer.vocab_size + tokens[1::2]
    _, pair_ids = np.unique(pairs, return_inverse=True)
    return {"characters": tokens, "pairs of characters": pair_ids.astype(np.int32)}


def rounded(part_loss: Any) -> Any:
    """`_part_loss` with its product's result rounded, which a compiler may otherwise leave out."""
    matmul = jnp.matmul

    def rounded_matmul(*args: Any, **kwargs: Any) -> jax.Array:
        kwargs["preferred_element_type"] = jnp.float32
        return jax.lax.reduce_precision(matmul(*args, **kwargs), **BFLOAT16_BITS)

    def loss(*args: Any) -> Any:
        with mock.patch.object(jnp, "matmul", rounded_matmul):
            return part_loss(*args)

    return loss


def train(tokens: np.ndarray) -> tuple[np.ndarray, float]:
    """The losses of STEPS steps, and the validation loss after them."""
    cut = int(0.9 * len(tokens))
    config = ja.GPTConfig.gpt2(
        vocab_size=int(tokens.max()) + 1, block_size=BLOCK_SIZE, n_layer=4, n_head=4, n_embd=128
    )
    _, preset = ja.PRESETS["mini"]
    optimizer = ja.make_optimizer(preset.optimizer, preset.learning_rate, STEPS)
    model = ja.GPT(config, rngs=nnx.Rngs(1), dtype=jnp.bfloat16)
    batches = ja.RandomBatches(jnp.asarray(tokens[:cut]), jax.random.key(3), BATCH_SIZE, BLOCK_SIZE)
    state = ja.TrainState.create(model, optimizer)
    ja.train_chunk.clear_cache()
    state, losses = ja.train_chunk(state, batches, optimizer, STEPS)
    return np.asarray(losses), ja.evaluate(state.model(), tokens[cut:], block_size=BLOCK_SIZE)


@dataclass(frozen=True)
class Arguments:
    """What logits rounded to bfloat16 change in 200 steps."""


def main() -> None:
    read_command_line(Arguments, "rounded_logits")
    print(about("rounded_logits"), flush=True)
    in_parts = mock.patch("jax_attn.models.gpt.needs_parts", return_value=True)
    for name, tokens in texts().items():
        with in_parts:
            losses, validation = train(tokens)
            part_loss = rounded(chunked_loss._part_loss)
            with mock.patch.object(chunked_loss, "_part_loss", part_loss):
                rounded_losses, rounded_validation = train(tokens)
        print(
            f"{name}, {int(tokens.max()) + 1} ids: mean loss of the last 50 steps "
            f"{losses[-50:].mean():.5f} and {rounded_losses[-50:].mean():.5f} rounded; "
            f"validation loss {validation:.5f} and {rounded_validation:.5f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

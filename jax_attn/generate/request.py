"""What is asked of generation: checked, padded, and ready for the compiled loop."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Bool, Integer

from jax_attn.domains import COUNT, LARGEST_INT32, PROBABILITY, SIZE, TEMPERATURE
from jax_attn.errors import InputError
from jax_attn.generate.buckets import cached_positions, text_length
from jax_attn.generate.loop import extend, prefill
from jax_attn.generate.noise import Keys
from jax_attn.nn.inputs import check_allowed, check_ids, check_key, check_lengths, check_model
from jax_attn.nn.key_value_cache import Cache
from jax_attn.room import require_room

COPIES = 3  # of the text at a time: on the host, on its way to the device, in the loop
# Adds the new tokens from one number up to another.
Extend = Callable[[jax.Array, Cache, int, int], tuple[jax.Array, Cache]]


def begin(
    model: nnx.Module,
    tokens: Integer[Array, "B T0"],
    max_new_tokens: int,
    key: Keys,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    lengths: Integer[Array | np.ndarray, " B"] | None,
    allowed: Bool[Array | np.ndarray, " V"] | None,
) -> tuple[Extend, Integer[Array, "B T"], Cache]:
    """`extend` for these settings, the prompt with room for the new tokens, and its cache.

    InputError for what `generate` refuses.
    """
    _require_block_size(model)
    check_ids(tokens, "tokens")
    if 0 in tokens.shape:
        raise ValueError(f"the prompt must be [B T0] with T0 of at least 1, got {tokens.shape}")
    rows, longest = tokens.shape
    check_key(key, rows)
    temperature = TEMPERATURE.check("temperature", temperature)
    top_k = None if top_k is None else SIZE.check("top_k", top_k)
    top_p = None if top_p is None else PROBABILITY.check("top_p", top_p)
    max_new_tokens = COUNT.check("max_new_tokens", max_new_tokens)
    if lengths is not None:
        check_lengths(lengths, rows, longest)
    if allowed is not None:
        check_allowed(allowed)
    positions, width = program_lengths(model, longest, max_new_tokens)
    if width > LARGEST_INT32:
        raise InputError(f"{width:,} tokens are more than places can be counted in int32")
    require_room(COPIES * rows * width * 4, f"a text of {rows * width:,} tokens")
    text = _padded(tokens, lengths, width)
    _require_ids(model, text)
    leaves, structure = jax.tree.flatten(model)
    cast, text, cache = prefill(structure, leaves, text, positions=positions)
    leaves = replaced(leaves, cast)
    greedy = temperature == 0

    def extend_to(text: jax.Array, cache: Cache, start: int, stop: int) -> tuple[jax.Array, Cache]:
        return extend(
            structure,
            leaves,
            text,
            cache,
            key,
            np.float32(temperature),
            None if greedy or top_p is None else np.float32(top_p),
            allowed,
            np.int32(longest) if lengths is None else lengths.astype(np.int32),
            np.int32(start),
            np.int32(stop),
            greedy=greedy,
            top_k=top_k,
        )

    return extend_to, text, cache


def program_lengths(model: Any, prompt_length: int, max_new_tokens: int) -> tuple[int, int]:
    """Of the programs: how many positions of the prompt are computed at once, and the text."""
    block_size: int = model.block_size
    total = prompt_length + max_new_tokens
    return cached_positions(prompt_length, block_size), text_length(total, block_size)


def replaced(leaves: list, cast: list) -> list:
    """The leaves, those that `prefill` has cast in the place of what they were."""
    return [old if new is None else new for old, new in zip(leaves, cast, strict=True)]


def _padded(
    tokens: Integer[Array, "B T0"], lengths: Integer[Array | np.ndarray, " B"] | None, width: int
) -> Integer[np.ndarray | Array, "B T"]:
    """`tokens` with room after them; on the host if it can be, where no length is compiled.

    The room is full of a row's last token: whatever the model makes of it, the prompt has in it.
    """
    rows, longest = tokens.shape
    if isinstance(tokens, Tracer) or isinstance(lengths, Tracer):
        text = jnp.pad(tokens.astype(jnp.int32), ((0, 0), (0, width - longest)), mode="edge")
        if lengths is None:
            return text
        last = jnp.take_along_axis(text, lengths[:, None] - 1, axis=1)
        return jnp.where(jnp.arange(width) < lengths[:, None], text, last)
    prompt, text = np.asarray(tokens), np.empty((rows, width), np.int32)
    ends = np.full(rows, longest) if lengths is None else np.asarray(lengths)
    for row, (ids, end) in enumerate(zip(prompt, ends, strict=True)):
        text[row, :end], text[row, end:] = ids[:end], ids[end - 1]
    return text


def _require_block_size(model: Any) -> None:
    """InputError for what is no model, or does not say how far it looks back."""
    check_model(model)
    name = type(model).__name__
    if not hasattr(model, "block_size"):
        raise InputError(
            f"{name} has no block_size, the most tokens that it looks back on: set it to sample"
        )
    SIZE.check(f"{name}.block_size", model.block_size)


def _require_ids(model: Any, text: Integer[Array | np.ndarray, "B T"]) -> None:
    """InputError unless they are in the vocabulary, as far as both are known."""
    table = getattr(model, "token_embedding_table", None)
    if table is None or isinstance(text, Tracer):
        return
    outside = text[(text < 0) | (text >= table.num_embeddings)]
    if outside.size:
        raise InputError(
            f"the prompt has ids outside the vocabulary, [0, {table.num_embeddings}): "
            f"{', '.join(map(str, np.unique(outside)[:10]))}"
        )

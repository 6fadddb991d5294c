"""Sampling from a language model, one compiled program for all tokens."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Integer, PRNGKeyArray

from jax_attn.domains import COUNT, LARGEST_INT32, SIZE, TEMPERATURE
from jax_attn.errors import InputError
from jax_attn.generate.buckets import cached_positions, text_length
from jax_attn.generate.loop import extend, prefill
from jax_attn.generate.sampling import NO_TOKEN
from jax_attn.nn.inputs import check_ids, check_key, check_model
from jax_attn.nn.key_value_cache import Cache
from jax_attn.room import require_room

COPIES = 3  # of the text at a time: on the host, on its way to the device, in the loop


def generate(
    model: nnx.Module,
    tokens: Integer[Array, "B T0"],
    max_new_tokens: int,
    *,
    key: PRNGKeyArray,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Integer[Array, "B T"]:
    """`tokens` [B T0] continued by `max_new_tokens`: [B T0+N], dropout off.

    Every token is predicted from the last `model.block_size` tokens before it, at positions
    counted from the first of those: exactly the lecture's growing and then sliding context.
    Logits are divided by `temperature`: 0 is the likeliest token, of equals the first, without
    randomness, to which small ones come as near as float32 can tell. `top_k` keeps only the k
    likeliest. The same key gives the same tokens.

    Up to `block_size` a token costs one position, for keys and values are kept. Past it every
    position moves with every token, so the whole window is computed again.

    Programs are made for a few lengths of prompt and text (`buckets.bucket`), to which others are
    padded.

    `model` is any module that gives logits [B T V] for ids [B T] and has a `block_size`.

    Raises InputError, a ValueError, for another one, an empty prompt, ids outside the vocabulary,
    more tokens than there is room for, a temperature outside [0, 1e30], a top_k below 1, and where
    the model's logits turn out to be NaN. Inside a compiled program, where ids and logits cannot be
    looked at, the tokens from there on are -1.
    """
    extend_to, text, cache = _begin(model, tokens, max_new_tokens, key, temperature, top_k)
    total = tokens.shape[1] + max_new_tokens
    text, _ = extend_to(text, cache, tokens.shape[1], total)
    if isinstance(text, Tracer):
        return text[:, :total]
    whole = np.asarray(text)[:, :total]
    _require_tokens(whole[:, tokens.shape[1] :], tokens.shape[1])
    # From the host, where no length is compiled; jnp.asarray, too, would compile for each.
    return text if text.shape[1] == total else jax.device_put(whole)


def stream(
    model: nnx.Module,
    tokens: Integer[Array, "B T0"],
    max_new_tokens: int,
    chunk: int,
    *,
    key: PRNGKeyArray,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Iterator[Integer[np.ndarray, "B n"]]:
    """The new tokens of `generate`, bit for bit, `chunk` at a time as they are made.

    All chunks are runs of one compiled program. Raises InputError for what `generate` does: at
    once, but for NaN, which is met on the way.
    """
    chunk = SIZE.check("chunk", chunk)
    extend_to, text, cache = _begin(model, tokens, max_new_tokens, key, temperature, top_k)
    start, stop = tokens.shape[1], tokens.shape[1] + max_new_tokens
    return _chunks(extend_to, text, cache, start, stop, chunk)


def compile_generation(
    model: nnx.Module,
    tokens: jax.Array | jax.ShapeDtypeStruct,
    max_new_tokens: int,
    *,
    key: PRNGKeyArray,
) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
    """The two programs of `generate`, for it to find; of a model that may hold shapes only.

    They are those of all prompts and texts of the same buckets, temperature above 0, no `top_k`.
    """
    leaves, structure = jax.tree.flatten(model)
    rows, prompt_length = tokens.shape
    positions, width = _lengths(model, prompt_length, max_new_tokens)
    text = jax.ShapeDtypeStruct((rows, width), jnp.int32)
    begin = prefill.lower(structure, leaves, text, positions=positions)
    cast, text, cache = begin.out_info
    place = np.int32(0)
    proceed = extend.lower(
        structure,
        _replaced(leaves, cast),
        text,
        cache,
        key,
        np.float32(1),
        place,
        place,
        place,
        greedy=False,
        top_k=None,
    )
    return begin.compile(), proceed.compile()


Extend = Callable[[jax.Array, Cache, int, int], tuple[jax.Array, Cache]]


def _begin(
    model: nnx.Module,
    tokens: Integer[Array, "B T0"],
    max_new_tokens: int,
    key: PRNGKeyArray,
    temperature: float,
    top_k: int | None,
) -> tuple[Extend, Integer[Array, "B T"], Cache]:
    """`extend` for these settings, the prompt with room for the new tokens, and its cache."""
    _require_block_size(model)
    check_ids(tokens, "tokens")
    check_key(key)
    if 0 in tokens.shape:
        raise ValueError(f"the prompt must be [B T0] with T0 of at least 1, got {tokens.shape}")
    temperature = TEMPERATURE.check("temperature", temperature)
    top_k = None if top_k is None else SIZE.check("top_k", top_k)
    max_new_tokens = COUNT.check("max_new_tokens", max_new_tokens)
    _require_ids(model, tokens)
    rows, prompt_length = tokens.shape
    _, width = _lengths(model, prompt_length, max_new_tokens)
    if width > LARGEST_INT32:
        raise InputError(f"{width:,} tokens are more than places can be counted in int32")
    require_room(COPIES * rows * width * 4, f"a text of {rows * width:,} tokens")
    leaves, structure = jax.tree.flatten(model)
    positions, width = _lengths(model, prompt_length, max_new_tokens)
    cast, text, cache = prefill(structure, leaves, _padded(tokens, width), positions=positions)
    leaves = _replaced(leaves, cast)

    def extend_to(text: jax.Array, cache: Cache, start: int, stop: int) -> tuple[jax.Array, Cache]:
        return extend(
            structure,
            leaves,
            text,
            cache,
            key,
            np.float32(temperature),
            np.int32(prompt_length),
            np.int32(start),
            np.int32(stop),
            greedy=temperature == 0,
            top_k=top_k,
        )

    return extend_to, text, cache


def _require_block_size(model: Any) -> None:
    """InputError for what is no model, or does not say how far it looks back."""
    check_model(model)
    name = type(model).__name__
    if not hasattr(model, "block_size"):
        raise InputError(
            f"{name} has no block_size, the most tokens that it looks back on: set it to sample"
        )
    SIZE.check(f"{name}.block_size", model.block_size)


def _require_ids(model: Any, tokens: Integer[Array, "B T0"]) -> None:
    """InputError unless they are in the vocabulary, as far as both are known."""
    table = getattr(model, "token_embedding_table", None)
    if table is None or isinstance(tokens, Tracer):
        return
    ids = np.asarray(tokens)
    outside = ids[(ids < 0) | (ids >= table.num_embeddings)]
    if outside.size:
        raise InputError(
            f"the prompt has ids outside the vocabulary, [0, {table.num_embeddings}): "
            f"{', '.join(map(str, np.unique(outside)[:10]))}"
        )


def _require_tokens(made: Integer[np.ndarray, "B n"], first: int) -> None:
    """InputError where a token, the first of `made` at place `first` of the text, is none."""
    failed = (made == NO_TOKEN).any(axis=0)
    if failed.any():
        place = first + int(failed.argmax())
        raise InputError(
            f"the model's logits for token {place:,} of the text are NaN: there is none to choose; "
            "look for weights that are not finite"
        )


def _lengths(model: Any, prompt_length: int, max_new_tokens: int) -> tuple[int, int]:
    """Of the programs: how many positions of the prompt are computed at once, and the text."""
    block_size: int = model.block_size
    total = prompt_length + max_new_tokens
    return cached_positions(prompt_length, block_size), text_length(total, block_size)


def _padded(tokens: Integer[Array, "B T0"], width: int) -> Integer[np.ndarray | Array, "B T"]:
    """`tokens` with room after them; on the host if it can be, where no length is compiled.

    The room is full of the last token: whatever the model makes of it, the prompt has in it.
    """
    rows, length = tokens.shape
    if isinstance(tokens, Tracer):
        return jnp.pad(tokens.astype(jnp.int32), ((0, 0), (0, width - length)), mode="edge")
    prompt, text = np.asarray(tokens), np.empty((rows, width), np.int32)
    text[:, :length], text[:, length:] = prompt, prompt[:, -1:]
    return text


def _replaced(leaves: list, cast: list) -> list:
    return [old if new is None else new for old, new in zip(leaves, cast, strict=True)]


def _chunks(
    extend_to: Extend, text: jax.Array, cache: Cache, start: int, total: int, chunk: int
) -> Iterator[Integer[np.ndarray, "B n"]]:
    while start < total:
        stop = min(start + chunk, total)
        text, cache = extend_to(text, cache, start, stop)
        made = np.asarray(text)[:, start:stop]
        _require_tokens(made, start)
        yield made
        start = stop

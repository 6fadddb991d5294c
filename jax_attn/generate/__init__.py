"""Sampling from a language model, one compiled program for all tokens."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Integer, PRNGKeyArray

from jax_attn.generate.buckets import cached_positions, text_length
from jax_attn.generate.loop import extend, prefill
from jax_attn.nn.key_value_cache import Cache


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
    Logits are divided by `temperature` (0 = the likeliest token, no randomness); `top_k` keeps
    only the k likeliest. The same key gives the same tokens.

    Up to `block_size` a token costs one position, for keys and values are kept. Past it every
    position moves with every token, so the whole window is computed again.

    Programs are made for a few lengths of prompt and text (`buckets.bucket`), to which others are
    padded.

    Raises ValueError for an empty prompt, a negative temperature or top_k below 1.
    """
    extend_to, text, cache = _begin(model, tokens, max_new_tokens, key, temperature, top_k)
    total = tokens.shape[1] + max_new_tokens
    text, _ = extend_to(text, cache, tokens.shape[1], total)
    if text.shape[1] == total:
        return text
    if isinstance(text, Tracer):
        return text[:, :total]
    # On the host, where no length is compiled; jnp.asarray, too, would compile for each.
    return jax.device_put(np.asarray(text)[:, :total])


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

    All chunks are runs of one compiled program. Raises ValueError at once for what `generate` does.
    """
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
    if tokens.ndim != 2 or tokens.shape[1] < 1:
        raise ValueError(f"the prompt must be [B T0] with T0 of at least 1, got {tokens.shape}")
    if temperature < 0:
        raise ValueError(f"temperature {temperature} is negative; 0 is greedy, 1 the model's own")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k {top_k} keeps no token; give 1 or more, or None")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens {max_new_tokens} is negative")
    leaves, structure = jax.tree.flatten(model)
    prompt_length = tokens.shape[1]
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
        yield np.asarray(text)[:, start:stop]
        start = stop

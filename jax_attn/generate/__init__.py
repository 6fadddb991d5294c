"""Sampling from a language model, one compiled program for all tokens."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Integer, PRNGKeyArray

from jax_attn.cache import Cache, CachedModel


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

    Raises ValueError for an empty prompt, a negative temperature or top_k below 1.
    """
    extend, text, cache = _begin(model, tokens, max_new_tokens, key, temperature, top_k)
    return extend(text, cache, tokens.shape[1], text.shape[1])[0]


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
    """The new tokens of `generate`, bit for bit, `chunk` at a time as they are made."""
    extend, text, cache = _begin(model, tokens, max_new_tokens, key, temperature, top_k)
    total = text.shape[1]
    for start in range(tokens.shape[1], total, chunk):
        stop = min(start + chunk, total)
        text, cache = extend(text, cache, start, stop)
        yield np.asarray(text)[:, start:stop]


# Noise is drawn for so many tokens at a time: for one by one, it costs as much as a small model.
NOISE_STEPS = 32

Extend = Callable[[jax.Array, Cache, int, int], tuple[jax.Array, Cache]]


def _begin(
    model: nnx.Module,
    tokens: Integer[Array, "B T0"],
    max_new_tokens: int,
    key: PRNGKeyArray,
    temperature: float,
    top_k: int | None,
) -> tuple[Extend, Integer[Array, "B T"], Cache]:
    """`_extend` for these settings, the prompt with room for the new tokens, and its cache."""
    if tokens.ndim != 2 or tokens.shape[1] < 1:
        raise ValueError(f"the prompt must be [B T0] with T0 of at least 1, got {tokens.shape}")
    if temperature < 0:
        raise ValueError(f"temperature {temperature} is negative; 0 is greedy, 1 the model's own")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k {top_k} keeps no token; give 1 or more, or None")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens {max_new_tokens} is negative")
    leaves, structure = jax.tree.flatten(model)
    text = jnp.pad(tokens.astype(jnp.int32), ((0, 0), (0, max_new_tokens)))
    prompt_length = tokens.shape[1]
    cache = _prefill(structure, leaves, text, prompt_length=prompt_length)

    def extend(text: jax.Array, cache: Cache, start: int, stop: int) -> tuple[jax.Array, Cache]:
        return _extend(
            structure,
            leaves,
            text,
            cache,
            key,
            np.float32(temperature),
            np.int32(start),
            np.int32(stop),
            prompt_length=prompt_length,
            greedy=temperature == 0,
            top_k=top_k,
        )

    return extend, text, cache


@partial(jax.jit, static_argnames=("structure", "prompt_length"))
def _prefill(structure, leaves, text, *, prompt_length) -> Cache:
    """What the first step finds: all of the prompt but its last token, and room for the rest."""
    model = _for_sampling(structure, leaves)
    if not isinstance(model, CachedModel) or prompt_length > model.block_size:
        return ()
    room = min(model.block_size, text.shape[1])
    return tuple(layer.with_room(room) for layer in model.prefill(text[:, : prompt_length - 1]))


@partial(
    jax.jit,
    static_argnames=("structure", "prompt_length", "greedy", "top_k"),
    donate_argnames=("text", "cache"),
)
def _extend(
    structure, leaves, text, cache, key, temperature, start, stop, *, prompt_length, greedy, top_k
):
    """`text` with the tokens from place `start` up to `stop`, and the cache that goes with it."""
    model = _for_sampling(structure, leaves)
    block_size = model.block_size

    def append(text, length, logits, noise):
        chosen = _first_largest(logits) if greedy else sample(logits / temperature, noise, top_k)
        return jax.lax.dynamic_update_slice_in_dim(text, chosen[:, None], length, axis=1)

    def grow(length, carry, noise):
        text, cache = carry
        newest = jax.lax.dynamic_slice_in_dim(text, length - 1, 1, axis=1)
        logits, cache = model.step(newest, cache, length - 1)
        return append(text, length, logits[:, -1], noise), cache

    def slide(length, carry, noise):
        text, cache = carry
        window = jax.lax.dynamic_slice_in_dim(text, length - block_size, block_size, axis=1)
        whole = tuple(layer.with_room(block_size) for layer in model.prefill(window[:, :-1]))
        logits, _ = model.step(window[:, -1:], whole, jnp.int32(block_size - 1))
        return append(text, length, logits[:, -1], noise), cache

    def recompute(length, carry, noise):
        # The window begins at the context's first token and may reach past its last one; causal
        # attention keeps what is there from mattering.
        text, cache = carry
        width = min(block_size, text.shape[1])
        first = jnp.maximum(length - width, 0)
        window = jax.lax.dynamic_slice_in_dim(text, first, width, axis=1)
        last = jax.lax.dynamic_index_in_dim(model(window), length - 1 - first, 1, keepdims=False)
        return append(text, length, last, noise), cache

    def repeat(body, start, stop, carry):
        """The body for every length from `start` up to `stop`, each with noise of its own."""
        if greedy:
            return jax.lax.fori_loop(start, stop, lambda i, c: body(i, c, None), carry)
        logits = jax.eval_shape(model, text[:, :1])

        def some(block, carry):
            first = prompt_length + block * NOISE_STEPS
            keys = jax.vmap(partial(jax.random.fold_in, key))(
                block * NOISE_STEPS + jnp.arange(NOISE_STEPS)
            )
            noise = jax.vmap(
                lambda k: jax.random.gumbel(k, (text.shape[0], logits.shape[-1]), logits.dtype)
            )(keys)
            return jax.lax.fori_loop(
                jnp.maximum(start, first),
                jnp.minimum(stop, first + NOISE_STEPS),
                lambda length, carry: body(length, carry, noise[length - first]),
                carry,
            )

        blocks = (start - prompt_length) // NOISE_STEPS, -((prompt_length - stop) // NOISE_STEPS)
        return jax.lax.fori_loop(*blocks, some, carry)

    if not isinstance(model, CachedModel):
        return repeat(recompute, start, stop, (text, cache))
    within = jnp.minimum(stop, block_size + 1)
    if prompt_length <= block_size:
        text, cache = repeat(grow, start, within, (text, cache))
    if text.shape[1] > block_size + 1:
        text, cache = repeat(slide, jnp.maximum(start, within), stop, (text, cache))
    return text, cache


def _for_sampling(structure, leaves) -> nnx.Module:
    model = jax.tree.unflatten(structure, leaves)
    model.eval()
    return model


def sample(
    logits: Float[Array, "B V"], noise: Float[Array, "B V"], top_k: int | None = None
) -> Int[Array, " B"]:
    """One token a row, with probability softmax(logits) over the `top_k` largest.

    `noise` is standard Gumbel noise: the largest of logits + noise has that probability.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        smallest_kept = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < smallest_kept, -jnp.inf, logits)
    return _first_largest(logits + noise)


def _first_largest(scores: Float[Array, "B V"]) -> Int[Array, " B"]:
    """jnp.argmax in two passes that XLA's CPU compiler vectorises, ten times as fast."""
    largest = scores.max(axis=-1, keepdims=True)
    found = (scores == largest) | jnp.isnan(scores)
    places = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    return jnp.where(found, places, scores.shape[-1]).min(axis=-1)

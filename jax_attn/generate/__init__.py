"""Sampling from a language model, one compiled program for all tokens."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Bool, Integer

from jax_attn.domains import SIZE
from jax_attn.errors import InputError
from jax_attn.generate.loop import extend, prefill
from jax_attn.generate.noise import Keys
from jax_attn.generate.request import Extend, begin, program_lengths, replaced
from jax_attn.generate.sampling import NO_TOKEN
from jax_attn.nn.key_value_cache import Cache

PADDING = -1  # after a row's last token, where another's goes on


def generate(
    model: nnx.Module,
    tokens: Integer[Array, "B T0"],
    max_new_tokens: int,
    *,
    key: Keys,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    lengths: Integer[Array | np.ndarray, " B"] | None = None,
    allowed: Bool[Array | np.ndarray, " V"] | None = None,
) -> Integer[Array, "B T"]:
    """`tokens` [B T0] continued by `max_new_tokens`: [B T0+N], dropout off.

    Every token is predicted from the last `model.block_size` tokens before it, at positions
    counted from the first of those: exactly the lecture's growing and then sliding context.

    Which ids may be drawn: those that `allowed` [V] is True for, all by default. Their logits are
    divided by `temperature`: 0 is the likeliest token, of equals the first, without randomness, to
    which small ones come as near as float32 can tell. Then `top_k` keeps only the k likeliest, and
    then `top_p` the fewest likeliest of those whose probability reaches p, the likeliest in any
    case. Equals at the border are all kept. All sums are in the logits' type, at least float32;
    the least p is 1.2e-38, and 1 keeps all.

    Prompts of different lengths are padded on the right, with anything, and `lengths` [B] says how
    long each is. A row is then its prompt, its new tokens, and -1 up to the width T0+N.

    The same key gives the same tokens. A row's depend on its place in the batch, and on no other
    row; of several keys [B], each row has its own, and its text is that of the prompt alone with
    that key, but for the rounding of products, which may differ with the number of rows.

    Up to `block_size` a token costs one position, for keys and values are kept. Past it every
    position moves with every token, so the whole window is computed again: of all rows, as soon
    as the longest one is past it.

    Programs are made for a few lengths of prompt and text (`buckets.bucket`), to which others are
    padded; one serves all temperatures above 0, and all top_p.

    `model` is any module that gives logits [B T V] for ids [B T] and has a `block_size`.

    Raises InputError, a ValueError, for another one, an empty prompt, ids outside the vocabulary,
    more tokens than there is room for, a temperature outside [0, 1e30], a top_k below 1, a top_p
    outside (0, 1], lengths outside [1, T0], and where the model's logits turn out to be NaN. Inside
    a compiled program, where ids and logits cannot be looked at, the tokens from there on are -1.
    """
    extend_to, text, cache = begin(
        model, tokens, max_new_tokens, key, temperature, top_k, top_p, lengths, allowed
    )
    rows, longest = tokens.shape
    total = longest + max_new_tokens
    text, _ = extend_to(text, cache, 0, max_new_tokens)
    if isinstance(text, Tracer):
        text = text[:, :total]
        if lengths is None:
            return text
        made = jnp.arange(total) < (lengths + max_new_tokens)[:, None]
        return jnp.where(made, text, PADDING)
    whole = np.array(text)[:, :total]
    ends = np.full(rows, longest) if lengths is None else np.asarray(lengths)
    _require_tokens(_between(whole, ends, 0, max_new_tokens), ends)
    if lengths is None and text.shape[1] == total:
        return text
    whole[np.arange(total) >= ends[:, None] + max_new_tokens] = PADDING
    # From the host, where no length is compiled; jnp.asarray, too, would compile for each.
    return jax.device_put(whole)


def stream(
    model: nnx.Module,
    tokens: Integer[Array, "B T0"],
    max_new_tokens: int,
    chunk: int,
    *,
    key: Keys,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    lengths: Integer[Array | np.ndarray, " B"] | None = None,
    allowed: Bool[Array | np.ndarray, " V"] | None = None,
) -> Iterator[Integer[np.ndarray, "B n"]]:
    """The new tokens of `generate`, bit for bit, `chunk` at a time as they are made.

    All chunks are runs of one compiled program; none is made that is not asked for. Raises
    InputError for what `generate` does: at once, but for NaN, which is met on the way.
    """
    chunk = SIZE.check("chunk", chunk)
    extend_to, text, cache = begin(
        model, tokens, max_new_tokens, key, temperature, top_k, top_p, lengths, allowed
    )
    ends = np.full(len(tokens), tokens.shape[1]) if lengths is None else np.asarray(lengths)
    return _chunks(extend_to, text, cache, ends, max_new_tokens, chunk)


def compile_generation(
    model: nnx.Module,
    tokens: jax.Array | jax.ShapeDtypeStruct,
    max_new_tokens: int,
    *,
    key: Keys,
    allowed: Bool[Array | np.ndarray, " V"] | None = None,
) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
    """The two programs of `generate`, for it to find; of a model that may hold shapes only.

    They are those of all prompts and texts of the same buckets, temperature above 0, no `top_k`, no
    `top_p`, and with or without `allowed`.
    """
    leaves, structure = jax.tree.flatten(model)
    rows, prompt_length = tokens.shape
    positions, width = program_lengths(model, prompt_length, max_new_tokens)
    text = jax.ShapeDtypeStruct((rows, width), jnp.int32)
    begin = prefill.lower(structure, leaves, text, positions=positions)
    cast, text, cache = begin.out_info
    number = np.int32(0)
    proceed = extend.lower(
        structure,
        replaced(leaves, cast),
        text,
        cache,
        key,
        np.float32(1),
        None,
        allowed,
        number,
        number,
        number,
        greedy=False,
        top_k=None,
    )
    return begin.compile(), proceed.compile()


def _chunks(
    extend_to: Extend,
    text: jax.Array,
    cache: Cache,
    ends: Integer[np.ndarray, " B"],
    total: int,
    chunk: int,
) -> Iterator[Integer[np.ndarray, "B n"]]:
    for start in range(0, total, chunk):
        stop = min(start + chunk, total)
        text, cache = extend_to(text, cache, start, stop)
        made = _between(np.asarray(text), ends, start, stop)
        _require_tokens(made, ends + start)
        yield made


def _between(
    text: Integer[np.ndarray, "B T"], ends: Integer[np.ndarray, " B"], start: int, stop: int
) -> Integer[np.ndarray, "B n"]:
    """The new tokens from number `start` up to `stop`; `ends` are the lengths of the prompts."""
    return np.take_along_axis(text, ends[:, None] + np.arange(start, stop), axis=1)


def _require_tokens(made: Integer[np.ndarray, "B n"], first: Integer[np.ndarray, " B"]) -> None:
    """InputError where a token, the first of `made` at the places `first` of the text, is none."""
    failed = made == NO_TOKEN
    if failed.any():
        number = int(failed.any(axis=0).argmax())
        place = int(first[failed[:, number].argmax()]) + number
        raise InputError(
            f"the model's logits for token {place:,} of the text are NaN: there is none to choose; "
            "look for weights that are not finite"
        )

"""The compiled loop: one step a token, from the prompt's cache to the last new token."""

import jax
import jax.numpy as jnp

from jax_attn.compiling.options import compiled
from jax_attn.errors import InputError
from jax_attn.generate.noise import MOST_NOISE, NOISE_STEPS, gumbel
from jax_attn.generate.places import put, step, take
from jax_attn.generate.sampling import first_largest, sample
from jax_attn.generate.weights import cast_weights
from jax_attn.nn.inputs import check_logits
from jax_attn.nn.key_value_cache import Cache, CachedModel


@compiled(static_argnames=("structure", "positions"))
def prefill(structure, leaves, text, *, positions) -> tuple[list, jax.Array, Cache]:
    """The leaves that the steps use in another type, `text`, and the cache of `positions` of it.

    A leaf that stays as it is is None. The prompt may end before those positions do: the slots of
    its last token and of what is past it are seen only after a step has written them.
    """
    model = _for_sampling(structure, leaves)
    if not isinstance(model, CachedModel):
        return [None] * len(leaves), text, ()
    cast_weights(model)
    cast = [
        None if new.dtype == old.dtype else new
        for old, new in zip(leaves, jax.tree.leaves(model), strict=True)
    ]
    return cast, text, _begin_cache(model, text, positions)


def _begin_cache(model: CachedModel, text: jax.Array, positions: int) -> Cache:
    room = min(model.block_size, text.shape[1])
    if positions > 0:
        return tuple(layer.with_room(room) for layer in model.prefill(text[:, :positions]))
    # Nothing to look back on, in the form of one position's.
    layers = jax.eval_shape(model.prefill, text[:, :1])
    return tuple(layer.with_room(room) for layer in jax.tree.map(jnp.zeros_like, layers))


@compiled(static_argnames=("structure", "greedy", "top_k"), donate_argnames=("text", "cache"))
def extend(
    structure,
    leaves,
    text,
    cache,
    key,
    temperature,
    top_p,
    allowed,
    prompt_length,
    start,
    stop,
    *,
    greedy,
    top_k,
) -> tuple[jax.Array, Cache]:
    """`text` with the new tokens from number `start` up to `stop`, and the cache after them.

    `prompt_length` is that of all rows, or one for each [B]; `key`, too. `top_p` and `allowed` [V]
    may be None. `cache` is empty if the prompt is longer than the window, or the model keeps none.
    """
    model = _for_sampling(structure, leaves)
    block_size = model.block_size

    def logits_of(ids):
        return check_logits(model(ids), ids)

    def append(text, length, logits, noise):
        if allowed is not None:
            if allowed.shape != logits.shape[1:]:
                raise InputError(
                    f"allowed has the shape {allowed.shape}; the vocabulary is {logits.shape[1:]}"
                )
            logits = jnp.where(allowed, logits, -jnp.inf)
        if greedy:
            return put(text, first_largest(logits), length)
        return put(text, sample(logits, noise, temperature, top_k, top_p), length)

    def grow(i, carry, noise):
        text, cache = carry
        length = prompt_length + i
        logits, cache = step(model, take(text, length - 1, 1), cache, length - 1)
        return append(text, length, logits, noise), cache

    def slide(i, text, noise):
        # A row whose text is shorter than the window may have nothing there yet; what is past its
        # last token is not seen. That one's slots are in both: kernels like a whole window.
        length = prompt_length + i
        first = jnp.maximum(length - block_size, 0)
        window = take(text, first, block_size)
        last = length - 1 - first
        logits, _ = step(model, take(window, last, 1), model.prefill(window), last)
        return append(text, length, logits, noise)

    def recompute(i, text, noise):
        # The window begins at the context's first token and may reach past its last one; causal
        # attention keeps what is there from mattering.
        length = prompt_length + i
        width = min(block_size, text.shape[1])
        first = jnp.maximum(length - width, 0)
        logits = take(logits_of(take(text, first, width)), length - 1 - first, 1)
        return append(text, length, logits[:, 0], noise)

    def repeat(one, start, stop, carry):
        """`one` for the numbers from `start` up to `stop`, each with noise of its own key."""
        if greedy:
            return jax.lax.fori_loop(start, stop, lambda i, c: one(i, c, None), carry)
        logits = jax.eval_shape(lambda: logits_of(text[:, :1])[:, 0])
        at_a_time = max(1, min(NOISE_STEPS, MOST_NOISE // logits.size))

        def block(j, carry):
            first = j * at_a_time
            steps = first + jnp.arange(at_a_time)
            noise = jax.vmap(lambda i: gumbel(key, i, logits.shape, logits.dtype))(steps)
            return jax.lax.fori_loop(
                jnp.maximum(start, first),
                jnp.minimum(stop, first + at_a_time),
                lambda i, carry: one(i, carry, noise[i - first]),
                carry,
            )

        first_block, end_block = start // at_a_time, (stop + at_a_time - 1) // at_a_time
        return jax.lax.fori_loop(first_block, end_block, block, carry)

    if not isinstance(model, CachedModel):
        return repeat(recompute, start, stop, text), cache
    # From this length on every position moves with every token, so nothing kept is valid.
    too_long = block_size + 1
    kept_for = too_long - jnp.max(prompt_length)
    if cache:
        text, cache = repeat(grow, start, jnp.minimum(stop, kept_for), (text, cache))
    if text.shape[1] > too_long:
        text = repeat(slide, jnp.maximum(start, kept_for), stop, text)
    return text, cache


def _for_sampling(structure, leaves):
    """The model, dropout off; the caller's own stays as it is."""
    model = jax.tree.unflatten(structure, leaves)
    model.eval()
    return model

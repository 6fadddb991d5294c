"""The compiled loop: one step a token, from the prompt's cache to the last new token."""

import jax
import jax.numpy as jnp

from jax_attn.compiling.options import compiled
from jax_attn.generate.sampling import first_largest, sample
from jax_attn.generate.weights import cast_weights
from jax_attn.nn.inputs import check_logits
from jax_attn.nn.key_value_cache import Cache, CachedModel

# Noise is drawn for so many tokens at a time: one by one, it costs as much as a small model.
NOISE_STEPS = 32
MOST_NOISE = 1 << 25  # numbers held at a time; of many rows and ids it is drawn for fewer tokens


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
    structure, leaves, text, cache, key, temperature, prompt_length, start, stop, *, greedy, top_k
) -> tuple[jax.Array, Cache]:
    """`text` with the tokens of the places from `start` up to `stop`, and the cache after them.

    `cache` is empty if the prompt is longer than the window, or the model keeps none.
    """
    model = _for_sampling(structure, leaves)
    block_size = model.block_size

    def logits_of(ids):
        return check_logits(model(ids), ids)

    def append(text, length, logits, noise):
        chosen = first_largest(logits) if greedy else sample(logits, temperature * noise, top_k)
        return jax.lax.dynamic_update_slice_in_dim(text, chosen[:, None], length, axis=1)

    def grow(length, carry, noise):
        text, cache = carry
        newest = jax.lax.dynamic_slice_in_dim(text, length - 1, 1, axis=1)
        logits, cache = model.step(newest, cache, length - 1)
        return append(text, length, logits[:, 0], noise), cache

    def slide(length, text, noise):
        window = jax.lax.dynamic_slice_in_dim(text, length - block_size, block_size, axis=1)
        # The last position's slots are in both: a whole window is what attention kernels like.
        logits, _ = model.step(window[:, -1:], model.prefill(window), jnp.int32(block_size - 1))
        return append(text, length, logits[:, 0], noise)

    def recompute(length, text, noise):
        # The window begins at the context's first token and may reach past its last one; causal
        # attention keeps what is there from mattering.
        width = min(block_size, text.shape[1])
        first = jnp.maximum(length - width, 0)
        window = jax.lax.dynamic_slice_in_dim(text, first, width, axis=1)
        last = jax.lax.dynamic_index_in_dim(
            logits_of(window), length - 1 - first, 1, keepdims=False
        )
        return append(text, length, last, noise)

    def repeat(step, start, stop, carry):
        """`step` for the lengths from `start` up to `stop`, each with noise of its own key."""
        if greedy:
            return jax.lax.fori_loop(start, stop, lambda i, c: step(i, c, None), carry)
        logits = jax.eval_shape(lambda: logits_of(text[:, :1])[:, 0])
        at_a_time = max(1, min(NOISE_STEPS, MOST_NOISE // logits.size))

        def block(i, carry):
            steps = i * at_a_time + jnp.arange(at_a_time)
            keys = jax.vmap(lambda s: jax.random.fold_in(key, s))(steps)
            noise = jax.vmap(lambda k: jax.random.gumbel(k, logits.shape, logits.dtype))(keys)
            first = prompt_length + i * at_a_time
            return jax.lax.fori_loop(
                jnp.maximum(start, first),
                jnp.minimum(stop, first + at_a_time),
                lambda length, carry: step(length, carry, noise[length - first]),
                carry,
            )

        first_block = (start - prompt_length) // at_a_time
        end_block = (stop - prompt_length + at_a_time - 1) // at_a_time
        return jax.lax.fori_loop(first_block, end_block, block, carry)

    if not isinstance(model, CachedModel):
        return repeat(recompute, start, stop, text), cache
    # From this length on every position moves with every token, so nothing kept is valid.
    too_long = block_size + 1
    if cache:
        text, cache = repeat(grow, start, jnp.minimum(stop, too_long), (text, cache))
    if text.shape[1] > too_long:
        text = repeat(slide, jnp.maximum(start, too_long), stop, text)
    return text, cache


def _for_sampling(structure, leaves):
    """The model, dropout off; the caller's own stays as it is."""
    model = jax.tree.unflatten(structure, leaves)
    model.eval()
    return model

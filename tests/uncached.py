"""Generation as the lecture writes it: the model is run on the whole context for every token."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx


@partial(jax.jit, static_argnames=("graphdef", "max_new_tokens", "temperature", "top_k"))
def _generate(graphdef, state, tokens, key, *, max_new_tokens, temperature, top_k):
    model = nnx.merge(graphdef, state)
    model.eval()
    prompt_length = tokens.shape[1]
    total = prompt_length + max_new_tokens
    width = min(model.block_size, total)

    def extend(tokens, length):
        start = jnp.maximum(length - width, 0)
        window = jax.lax.dynamic_slice_in_dim(tokens, start, width, axis=1)
        # What is past the context's end is not seen by its last position.
        logits = jax.lax.dynamic_index_in_dim(
            model(window), length - 1 - start, axis=1, keepdims=False
        )
        if temperature == 0:
            chosen = jnp.argmax(logits, axis=-1)
        else:
            logits = logits / jnp.float32(temperature)
            if top_k is not None and top_k < logits.shape[-1]:
                kept = jnp.sort(logits, axis=-1)[:, -top_k, None]
                logits = jnp.where(logits < kept, -jnp.inf, logits)
            step_key = jax.random.fold_in(key, length - prompt_length)
            chosen = jax.random.categorical(step_key, logits, axis=-1)
        chosen = chosen.astype(tokens.dtype)[:, None]
        return jax.lax.dynamic_update_slice_in_dim(tokens, chosen, length, axis=1), None

    room = jnp.pad(tokens, ((0, 0), (0, max_new_tokens)))
    return jax.lax.scan(extend, room, jnp.arange(prompt_length, total))[0]


def generate(model, tokens, max_new_tokens, *, key, temperature=1.0, top_k=None):
    """`jax_attn.generate` without a cache."""
    return _generate(
        *nnx.split(model),
        tokens,
        key,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
    )

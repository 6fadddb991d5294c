"""Sampling from a language model, one compiled program for all tokens."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Integer, PRNGKeyArray


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

    Raises ValueError for an empty prompt, a negative temperature or top_k below 1.
    """
    if tokens.ndim != 2 or tokens.shape[1] < 1:
        raise ValueError(f"the prompt must be [B T0] with T0 of at least 1, got {tokens.shape}")
    if temperature < 0:
        raise ValueError(f"temperature {temperature} is negative; 0 is greedy, 1 the model's own")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k {top_k} keeps no token; give 1 or more, or None")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens {max_new_tokens} is negative")
    graphdef, state = nnx.split(model)
    room = jnp.zeros((tokens.shape[0], max_new_tokens), jnp.int32)
    return _generate(
        graphdef,
        state,
        jnp.concatenate([tokens.astype(jnp.int32), room], axis=1),
        key,
        jnp.asarray(temperature, jnp.float32),
        prompt_length=tokens.shape[1],
        greedy=temperature == 0,
        top_k=top_k,
    )


@partial(jax.jit, static_argnames=("prompt_length", "greedy", "top_k"), donate_argnames="tokens")
def _generate(graphdef, state, tokens, key, temperature, *, prompt_length, greedy, top_k):
    model = nnx.merge(graphdef, state)
    model.eval()
    total = tokens.shape[1]
    width = min(model.block_size, total)

    def extend(tokens, length):
        # The window begins at the context's first token and may reach past its last one; causal
        # attention keeps what is there from mattering.
        start = jnp.maximum(length - width, 0)
        window = jax.lax.dynamic_slice_in_dim(tokens, start, width, axis=1)
        logits = model(window)
        last = jax.lax.dynamic_index_in_dim(logits, length - 1 - start, axis=1, keepdims=False)
        if greedy:
            chosen = jnp.argmax(last, axis=-1)
        else:
            step_key = jax.random.fold_in(key, length - prompt_length)
            chosen = sample(last / temperature, step_key, top_k)
        tokens = jax.lax.dynamic_update_slice_in_dim(
            tokens, chosen.astype(tokens.dtype)[:, None], length, axis=1
        )
        return tokens, None

    positions = jnp.arange(prompt_length, total, dtype=jnp.int32)
    return jax.lax.scan(extend, tokens, positions)[0]


def sample(
    logits: Float[Array, "B V"], key: PRNGKeyArray, top_k: int | None = None
) -> Int[Array, " B"]:
    """One token a row, drawn with probability softmax(logits) over the `top_k` largest."""
    if top_k is not None and top_k < logits.shape[-1]:
        smallest_kept = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < smallest_kept, -jnp.inf, logits)
    return jax.random.categorical(key, logits, axis=-1)

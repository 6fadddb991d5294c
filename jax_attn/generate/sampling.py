"""The choice of one token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

NO_TOKEN = -1  # what follows where the logits are not numbers; and whatever follows that


def sample(
    logits: Float[Array, "B V"],
    noise: Float[Array, "B V"],
    temperature: Float[Array, ""],
    top_k: int | None = None,
    top_p: Float[Array, ""] | None = None,
) -> Int[Array, " B"]:
    """One token a row, with probability softmax(logits / temperature) over those that are left.

    `top_k` leaves the k largest, and then `top_p` the likeliest of them. `noise` is standard Gumbel
    noise: the largest of the logits with t times it has that probability. So nothing is divided
    by a small temperature, which would overflow.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        smallest_kept = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < smallest_kept, -jnp.inf, logits)
    if top_p is not None:
        logits = likeliest(logits, temperature, top_p)
    return first_largest(logits + temperature * noise)


def likeliest(
    logits: Float[Array, "B V"], temperature: Float[Array, ""], top_p: Float[Array, ""]
) -> Float[Array, "B V"]:
    """-inf in the place of those before whom the likelier ones have `top_p` together.

    Without sorting, which takes 20 times as long for 50,000 ids: the probability of the least
    likely one that is kept is found bit by bit, largest first, each by one sum of those that are
    as likely at least. Positive floats are in the order of their bits.
    """
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    above = (logits - logits.max(axis=-1, keepdims=True)).astype(wide)
    # Probabilities but for a factor: the likeliest id has 1, whose highest bit is the second one.
    weight = jnp.exp(above / jnp.maximum(temperature, jnp.finfo(wide).tiny).astype(wide))
    enough = top_p * weight.sum(axis=-1, keepdims=True)
    integer, n_bits = (jnp.int32, 30) if wide == jnp.float32 else (jnp.int64, 62)

    def narrow(i, bits):
        tried = bits | jnp.left_shift(jnp.ones((), integer), n_bits - 1 - i).astype(integer)
        as_likely = weight >= jax.lax.bitcast_convert_type(tried, wide)
        reached = jnp.where(as_likely, weight, 0).sum(axis=-1, keepdims=True) >= enough
        return jnp.where(reached, tried, bits)

    bits = jax.lax.fori_loop(0, n_bits, narrow, jnp.zeros((len(logits), 1), integer))
    smallest_kept = jax.lax.bitcast_convert_type(bits, wide)
    return jnp.where((weight < smallest_kept) & (top_p < 1), -jnp.inf, logits)


def first_largest(scores: Float[Array, "B V"]) -> Int[Array, " B"]:
    """jnp.argmax in two passes that XLA's CPU compiler vectorises, ten times as fast.

    NO_TOKEN for a row with a NaN in it, of which the largest is NaN, too.
    """
    largest = scores.max(axis=-1, keepdims=True)
    places = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    first = jnp.where(scores == largest, places, scores.shape[-1]).min(axis=-1)
    return jnp.where(first < scores.shape[-1], first, NO_TOKEN)

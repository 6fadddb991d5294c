"""Faults of sampling and of the sliding window."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_attn.generate import buckets, loop, noise, places, sampling
from jax_attn.models import gpt
from jax_attn.nn import key_value_cache
from parity_tests.suite.mutants.planting import Mutant, Plant, edited, patched, wrapped

EXTEND = f"{loop.__name__}:extend"
SAMPLE = f"{sampling.__name__}:sample"
LIKELIEST = f"{sampling.__name__}:likeliest"
PLACES = places.__name__
CACHE = f"{key_value_cache.__name__}:KeyValues"


def _first_ids(logits: jax.Array, temperature: Any, top_p: Any) -> jax.Array:
    probs = jax.nn.softmax(logits / temperature)
    return jnp.where(jnp.cumsum(probs, axis=-1) - probs < top_p, logits, -jnp.inf)


def _top_p_first(sample: Any) -> Any:
    def mistaken(logits, noise, temperature, top_k=None, top_p=None):
        if top_p is not None:
            logits = sampling.likeliest(logits, temperature, top_p)
        return sample(logits, noise, temperature, top_k)

    return mistaken


def _mutant(name: str, description: str, plant: Plant, equivalent: str = "") -> Mutant:
    return Mutant(name, "generation", description, "generation", plant, equivalent)


MUTANTS = [
    _mutant(
        "prompt's cache a position short",
        "where the position before its last one begins a longer bucket, its slot stays empty",
        edited(f"{buckets.__name__}:cached_positions", "prompt_length - 1", "prompt_length - 2"),
    ),
    _mutant(
        "slot off by one",
        "a key goes where the next one belongs",
        edited(f"{CACHE}.write", "slot, position, axis", "slot, position + 1, axis"),
    ),
    _mutant(
        "slots past the newest are seen",
        "empty ones, and those of an older text",
        edited(f"{CACHE}.seen", "<= position", "<= position + 1"),
    ),
    _mutant(
        "itself not seen",
        "a step sees what was before it alone",
        edited(f"{CACHE}.seen", "<= position", "< jnp.maximum(position, 1)"),
    ),
    _mutant(
        "keys kept, values not",
        "the values of the new positions are never written",
        edited(f"{CACHE}.write", "KeyValues(keys, values)", "KeyValues(keys, self.values)"),
    ),
    _mutant(
        "position of a step off by one",
        "the position embedding of the token before",
        edited(
            f"{gpt.__name__}:GPT.step",
            "self.position_embedding_table(position[None])",
            "self.position_embedding_table(position[None] - (position > 0))",
        ),
    ),
    _mutant(
        "a token late into the cache",
        "each step reads the token before the newest",
        edited(EXTEND, "take(text, length - 1, 1)", "take(text, length - 2, 1)"),
    ),
    _mutant(
        "cache kept past the window",
        "one step more with the old positions, the last slot written over",
        edited(
            EXTEND,
            "too_long = block_size + 1",
            "too_long = block_size + 2",
            ("cache, length - 1)", "cache, jnp.minimum(length, block_size) - 1)"),
        ),
    ),
    _mutant(
        "window a token short",
        "the oldest token of the sliding context is read twice",
        edited(
            EXTEND,
            "model.prefill(window)",
            "model.prefill(window.at[:, 0].set(window[:, 1]))",
        ),
    ),
    _mutant(
        "window does not slide",
        "past block_size the first tokens are read for ever",
        edited(EXTEND, "window = take(text, first,", "window = take(text, 0 * first,"),
    ),
    _mutant(
        "window a token late",
        "it slides one step after it should, and the newest token is not in it",
        edited(EXTEND, "window = take(text, first,", "window = take(text, first - (first > 0),"),
    ),
    _mutant(
        "without a cache: window does not slide",
        "past block_size the first tokens are read for ever",
        edited(EXTEND, "jnp.maximum(length - width, 0)", "0 * length"),
    ),
    _mutant(
        "without a cache: last position off by one",
        "the logits before the last are read",
        edited(EXTEND, "length - 1 - first, 1)", "length - 2 - first, 1)"),
    ),
    _mutant(
        "without a cache: padding read",
        "the logits of the window's last place, written or not",
        edited(EXTEND, "length - 1 - first, 1)", "width - 1 + 0 * length, 1)"),
    ),
    _mutant(
        "temperature the wrong way",
        "the noise is divided",
        edited(SAMPLE, "temperature * noise", "noise / temperature"),
    ),
    _mutant(
        "temperature unread",
        "always 1",
        edited(SAMPLE, "temperature * noise", "noise"),
    ),
    _mutant(
        "probabilities for logits",
        "softmax before the noise is added, which goes with logits",
        edited(
            SAMPLE,
            "logits + temperature * noise",
            "jax.nn.softmax(logits / temperature) + noise",
        ),
    ),
    _mutant(
        "the same key at every step",
        "every token is drawn with the same noise",
        edited(f"{noise.__name__}:gumbel", "fold_in(key, i)", "fold_in(key, 0 * i)"),
    ),
    _mutant(
        "noise a block late",
        "the first token of a block of noise is drawn with the noise of the block's second",
        edited(EXTEND, "noise[i - first]", "noise[i - first + 1]"),
    ),
    _mutant(
        "greedy picks the least likely",
        "argmin",
        edited(EXTEND, "first_largest(logits), length", "first_largest(-logits), length"),
    ),
    _mutant(
        "one token too many",
        "k + 1 are kept",
        edited(SAMPLE, "jax.lax.top_k(logits, top_k)", "jax.lax.top_k(logits, top_k + 1)"),
    ),
    _mutant(
        "the k-th token dropped",
        "<= for <",
        edited(SAMPLE, "logits < smallest_kept", "logits <= smallest_kept"),
    ),
    _mutant(
        "top_k of the smallest",
        "the unlikely ones are kept",
        edited(SAMPLE, "logits < smallest_kept", "logits >= smallest_kept"),
    ),
    _mutant(
        "sampling always greedy",
        "the noise is left out",
        edited(SAMPLE, "logits + temperature * noise", "logits"),
    ),
    _mutant(
        "top_k fills with a number",
        "-1e30 for -inf",
        edited(SAMPLE, "-jnp.inf", "-1e30"),
        equivalent="a logit of -1e30 is as impossible as one of -inf",
    ),
    _mutant(
        "top_p: one too few",
        "those up to which the probability does not reach p yet",
        edited(LIKELIEST, "weight < smallest_kept", "weight <= smallest_kept"),
    ),
    _mutant(
        "top_p: one too many",
        "the first beyond p, too",
        edited(
            LIKELIEST,
            "(weight < smallest_kept)",
            "(weight < jnp.where(weight < smallest_kept, weight, 0).max(-1, keepdims=True))",
        ),
    ),
    _mutant(
        "top_p before the temperature",
        "of the probabilities at temperature 1",
        edited(LIKELIEST, "jnp.maximum(temperature,", "jnp.maximum(1 + 0 * temperature,"),
    ),
    _mutant(
        "top_p unsorted",
        "those before which p is reached in the order of ids",
        patched(LIKELIEST, _first_ids),
    ),
    _mutant(
        "top_p before top_k",
        "the share of all ids, where it is one of those that top_k leaves",
        wrapped(SAMPLE, _top_p_first),
    ),
    _mutant(
        "rows at one place",
        "the newest token of every row is read where the first row's is",
        edited(f"{PLACES}:take", "(rows, place)", "(rows, 0 * place + place[0])"),
    ),
    _mutant(
        "rows at one position",
        "the position of every row is the first one's",
        edited(
            f"{PLACES}:step",
            "(newest, apart, position)",
            "(newest, apart, 0 * position + position[0])",
        ),
    ),
    _mutant(
        "rows end together",
        "past the window the last position is the window's, of shorter rows too",
        edited(EXTEND, "last = length - 1 - first", "last = block_size - 1 + 0 * length"),
    ),
    _mutant(
        "one key for all rows",
        "each row draws with the first one's",
        edited(f"{noise.__name__}:gumbel", "[0])(key)", "[0])(key[jnp.zeros(len(key), int)])"),
    ),
]

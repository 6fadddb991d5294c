"""Faults of sampling and of the sliding window."""

from jax_attn.generate import buckets, loop, sampling
from jax_attn.models import gpt
from jax_attn.nn import key_value_cache
from parity_tests.suite.mutants.planting import Mutant, Plant, edited

EXTEND = f"{loop.__name__}:extend"
SAMPLE = f"{sampling.__name__}:sample"
CACHE = f"{key_value_cache.__name__}:KeyValues"


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
        edited(EXTEND, "(text, length - 1, 1, axis=1)", "(text, length - 2, 1, axis=1)"),
    ),
    _mutant(
        "cache kept past the window",
        "one step more with the old positions, the last slot written over",
        edited(EXTEND, "too_long = block_size + 1", "too_long = block_size + 2"),
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
        edited(EXTEND, "length - block_size, block_size", "0 * length, block_size"),
    ),
    _mutant(
        "window a token late",
        "it slides one step after it should, and the newest token is not in it",
        edited(EXTEND, "length - block_size, block_size", "length - block_size - 1, block_size"),
    ),
    _mutant(
        "without a cache: window does not slide",
        "past block_size the first tokens are read for ever",
        edited(EXTEND, "jnp.maximum(length - width, 0)", "0 * length"),
    ),
    _mutant(
        "without a cache: last position off by one",
        "the logits before the last are read",
        edited(EXTEND, "length - 1 - first,", "length - 2 - first,"),
    ),
    _mutant(
        "without a cache: padding read",
        "the logits of the window's last place, written or not",
        edited(EXTEND, "length - 1 - first,", "width - 1,"),
    ),
    _mutant(
        "temperature the wrong way",
        "the noise is divided",
        edited(EXTEND, "temperature * noise", "noise / temperature"),
    ),
    _mutant(
        "temperature unread",
        "always 1",
        edited(EXTEND, "temperature * noise", "noise"),
    ),
    _mutant(
        "probabilities for logits",
        "softmax before the noise is added, which goes with logits",
        edited(
            EXTEND,
            "sample(logits, temperature * noise",
            "sample(jax.nn.softmax(logits / temperature), noise",
        ),
    ),
    _mutant(
        "the same key at every step",
        "every token is drawn with the same noise",
        edited(EXTEND, "fold_in(key, s)", "fold_in(key, 0 * s)"),
    ),
    _mutant(
        "noise a block late",
        "the first token of a block of noise is drawn with the noise of the block's second",
        edited(EXTEND, "noise[length - first]", "noise[length - first + 1]"),
    ),
    _mutant(
        "greedy picks the least likely",
        "argmin",
        edited(EXTEND, "first_largest(logits) if", "first_largest(-logits) if"),
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
        edited(SAMPLE, "first_largest(logits + noise)", "first_largest(logits)"),
    ),
    _mutant(
        "top_k fills with a number",
        "-1e30 for -inf",
        edited(SAMPLE, "-jnp.inf", "-1e30"),
        equivalent="a logit of -1e30 is as impossible as one of -inf",
    ),
]

"""Faults of sampling and of the sliding window."""

from parity_tests.harness.mutants.planting import Mutant, Plant, edited

GENERATE = "jax_attn.generate:_generate"
SAMPLE = "jax_attn.generate:sample"


def _mutant(name: str, description: str, plant: Plant, equivalent: str = "") -> Mutant:
    return Mutant(name, "generation", description, "generation", plant, equivalent)


MUTANTS = [
    _mutant(
        "window a token short",
        "the oldest token of the context is cut off",
        edited(GENERATE, "min(model.block_size, total)", "min(model.block_size - 1, total)"),
    ),
    _mutant(
        "window does not slide",
        "past block_size the first tokens are read for ever",
        edited(GENERATE, "jnp.maximum(length - width, 0)", "0 * length"),
    ),
    _mutant(
        "window a token late",
        "it slides one step after it should, and the newest token is not in it",
        edited(GENERATE, "jnp.maximum(length - width, 0)", "jnp.maximum(length - width - 1, 0)"),
    ),
    _mutant(
        "last position off by one",
        "the logits before the last are read",
        edited(GENERATE, "length - 1 - start,", "length - 2 - start,"),
    ),
    _mutant(
        "padding read",
        "the logits of the window's last place, written or not",
        edited(GENERATE, "length - 1 - start,", "width - 1,"),
    ),
    _mutant(
        "temperature the wrong way",
        "logits are multiplied",
        edited(GENERATE, "last / temperature", "last * temperature"),
    ),
    _mutant(
        "temperature unread",
        "always 1",
        edited(GENERATE, "last / temperature", "last"),
    ),
    _mutant(
        "probabilities for logits",
        "softmax before categorical, which takes logits",
        edited(GENERATE, "sample(last / temperature", "sample(jax.nn.softmax(last / temperature)"),
    ),
    _mutant(
        "the same key at every step",
        "every token is drawn with the same noise",
        edited(GENERATE, "fold_in(key, length - prompt_length)", "fold_in(key, 0)"),
    ),
    _mutant(
        "greedy picks the least likely",
        "argmin",
        edited(GENERATE, "jnp.argmax(last", "jnp.argmin(last"),
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
        edited(
            SAMPLE, "jax.random.categorical(key, logits, axis=-1)", "jnp.argmax(logits, axis=-1)"
        ),
    ),
    _mutant(
        "top_k fills with a number",
        "-1e30 for -inf",
        edited(SAMPLE, "-jnp.inf", "-1e30"),
        equivalent="a logit of -1e30 is as impossible as one of -inf",
    ),
]

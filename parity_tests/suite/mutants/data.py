"""Faults of the tokenizer, the split and the batches."""

from jax_attn.data import char_tokenizer, given_text, mapped
from jax_attn.training import batches, host_batches
from parity_tests.suite.mutants.planting import Mutant, Plant, edited

TOKENIZER = f"{char_tokenizer.__name__}:CharTokenizer"
TEXT = f"{given_text.__name__}:ReadText"
RANDOM = f"{batches.__name__}:RandomBatches.batch"
STARTS = f"{batches.__name__}:window_starts"
HOST = f"{host_batches.__name__}:HostBatches"


def _mutant(name: str, description: str, plant: Plant) -> Mutant:
    return Mutant(name, "data", description, "data", plant)


MUTANTS = [
    _mutant(
        "targets not shifted",
        "every token is its own target",
        edited(RANDOM, "windows[:, 1:]", "windows[:, :-1]"),
    ),
    _mutant(
        "shifted twice",
        "the target is the token after the next",
        edited(
            RANDOM,
            "return windows[:, :-1], windows[:, 1:]",
            "return windows[:, :-1], jnp.roll(windows, -1, 1)[:, 1:]",
        ),
    ),
    _mutant(
        "last window never drawn",
        "the range of starts is one short",
        edited(STARTS, "n_starts, dtype", "n_starts - 1, dtype"),
    ),
    _mutant(
        "window past the end",
        "the range of starts is one long; indexing clamps in silence",
        edited(STARTS, "n_starts, dtype", "n_starts + 1, dtype"),
    ),
    _mutant(
        "the same batch at every step",
        "the key does not depend on the step: baked into the program",
        edited(STARTS, "fold_in(key, step)", "fold_in(key, 0)"),
    ),
    _mutant(
        "the same window in every row",
        "one start for the whole batch",
        edited(STARTS, "(batch_size, 1)", "(1, 1)"),
    ),
    _mutant(
        "tokens in a signed byte",
        "ids above 127 turn negative",
        edited(RANDOM, "self.tokens[places].astype", "self.tokens[places].astype(jnp.int8).astype"),
    ),
    _mutant(
        "given batches from row 0",
        "the first step's number is not subtracted",
        edited(f"{batches.__name__}:GivenBatches.batch", "step - self.first_step", "step"),
    ),
    _mutant(
        "split rounded up",
        "one character more to train on",
        edited(
            f"{given_text.__name__}:training_part",
            "int((1 - validation_fraction) * n)",
            "-int((validation_fraction - 1) * n - 0.999)",
        ),
    ),
    _mutant(
        "splits overlap",
        "the last training character is validated too",
        edited(f"{TEXT}.parts", "(self.n_train, len", "(self.n_train - 1, len"),
    ),
    _mutant(
        "validation is the training split",
        "measured on what was seen",
        edited(f"{TEXT}.parts", "(self.n_train, len(self.characters))", "(0, self.n_train)"),
    ),
    _mutant(
        "host windows of the step before",
        "gathered ahead under another step's number",
        edited(
            f"{HOST}.prepare",
            "np.arange(first_step, first_step",
            "np.arange(first_step - 1, first_step - 1",
        ),
    ),
    _mutant(
        "host windows one on",
        "each begins a token late",
        edited(f"{mapped.__name__}:Windows.at", "+ np.arange(length)", "+ 1 + np.arange(length)"),
    ),
    _mutant(
        "half of a wide number",
        "places past 2^32 are never drawn",
        edited(f"{host_batches.__name__}:_wide", "high << np.uint64(32) | low", "low"),
    ),
    _mutant(
        "wide numbers never drawn again",
        "the first places are likelier than the last",
        edited(f"{HOST}.starts", "while (beyond", "while False and (beyond"),
    ),
    _mutant(
        "unknown characters pass",
        "as the next known one",
        edited(f"{TOKENIZER}.encode", "if unknown.any():", "if False:"),
    ),
    _mutant(
        "ids in a byte",
        "a vocabulary of 300 wraps",
        edited(f"{TOKENIZER}.encode", "astype(self.dtype)", "astype(np.uint8)"),
    ),
    _mutant(
        "unknown ids decoded",
        "as the last character",
        edited(
            f"{TOKENIZER}.decode",
            "require_inside(ids, self.vocab_size, errors)",
            "np.ones(len(ids), bool)",
        ),
    ),
    _mutant(
        "characters in another order",
        "ids from the last code point down",
        edited(
            f"{TOKENIZER}.encode",
            "self._order[places]",
            "(self.vocab_size - 1 - self._order[places])",
        ),
    ),
]

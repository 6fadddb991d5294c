"""Characters to ids and back, the split, and the batches: integers, so equal or not."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import NDArray

import jax_attn
import torch_ref
from parity_tests.suite.tiers import Checks, assert_all, holds, raises, same_bits

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n"
OTHER = "héllo wörld — ∑ 你好 🙂 ÿ\n"


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    for name, text in (("ASCII", TEXT), ("Unicode", OTHER), ("one character", "aaaa")):
        yield from tokenizer_checks(name, text)
    characters = "".join(chr(0x100 + i) for i in range(300))  # more ids than a byte holds
    yield from tokenizer_checks("300 symbols", "".join(rng.permutation(list(characters))))
    yield from split_checks(rng)
    yield from batch_checks(rng)


def tokenizer_checks(name: str, text: str) -> Checks:
    """The lecture's cell: `chars = sorted(list(set(text)))`, two dictionaries, two lambdas."""
    chars = sorted(set(text))
    stoi = {ch: i for i, ch in enumerate(chars)}
    itos = dict(enumerate(chars))
    ids = [stoi[c] for c in text]
    tokenizer = jax_attn.CharTokenizer.from_text(text)
    encoded = np.asarray(tokenizer.encode(text))
    yield same_bits(f"{name}: vocab_size", np.array(len(chars)), np.array(tokenizer.vocab_size))
    yield same_bits(f"{name}: encode", np.array(ids), encoded)
    decoded = "".join(itos[i] for i in ids)
    yield holds(f"{name}: decode", tokenizer.decode(encoded) == decoded == text)
    yield raises(
        f"{name}: an unknown character is named",
        jax_attn.InputError,
        "'☃'",
        lambda: tokenizer.encode(text + "☃"),
    )
    yield raises(
        f"{name}: an id outside the vocabulary is named",
        jax_attn.InputError,
        str(len(chars)),
        lambda: tokenizer.decode([0, len(chars)]),
    )


def split_checks(rng: np.random.Generator) -> Checks:
    """`n = int(0.9*len(data))`, at lengths where rounding would show."""
    for length in (11, 99, 1000, 1003):
        text = "".join(rng.choice(list("abcdefg"), length))
        tokenizer = jax_attn.CharTokenizer.from_text(text)
        corpus = jax_attn.Corpus("random", "", tokenizer, tokenizer.encode(text))
        data = torch.tensor(tokenizer.encode(text).astype(np.int64))
        n = int(0.9 * len(data))
        yield same_bits(f"training split of {length}", data[:n], np.asarray(corpus.train))
        yield same_bits(f"validation split of {length}", data[n:], np.asarray(corpus.validation))


def batch_checks(rng: np.random.Generator) -> Checks:
    """The port's windows against the reference's, cut at the same starts."""
    length, batch_size, block_size, n_steps = 23, 3, 5, 60
    # Every token another id, so that a window tells where it began; above 127, so that a narrow
    # signed type shows.
    data = (rng.permutation(length) + 200).astype(np.uint8)
    batches = jax_attn.RandomBatches(
        jnp.asarray(data), jax.random.key(int(rng.integers(2**31))), batch_size, block_size
    )
    steps = [batches.batch(jnp.int32(step)) for step in range(n_steps)]
    inputs = np.stack([np.asarray(x) for x, _ in steps])
    targets = np.stack([np.asarray(y) for _, y in steps])
    places = {int(token): place for place, token in enumerate(data)}
    starts = np.array([[places.get(int(row[0]), -1) for row in step] for step in inputs])
    possible = np.arange(length - block_size)
    yield same_bits("every start, and no other", possible, np.unique(starts))
    if not np.isin(starts, possible).all():
        return
    with torch_starts(starts):
        expected = [
            torch_ref.get_batch(torch.tensor(data.astype(np.int64)), block_size, batch_size)
            for _ in range(n_steps)
        ]
    yield same_bits("inputs", np.stack([x for x, _ in expected]), inputs)
    yield same_bits("targets", np.stack([y for _, y in expected]), targets)
    counts = np.bincount(starts.ravel(), minlength=len(possible))
    yield holds("starts are about equally likely", chi_square(counts) < 70)  # 17 degrees: p ~ 2e-8
    yield holds("steps differ", len({tuple(step) for step in starts}) > 0.9 * n_steps)
    again = batches.batch(jnp.int32(7))
    yield same_bits("a step's batch depends on the step alone", inputs[7], np.asarray(again[0]))

    given = jax_attn.GivenBatches(jnp.asarray(inputs), jnp.asarray(targets), jnp.int32(10))
    yield same_bits(
        "given batches are taken in order",
        {"inputs": inputs[4], "targets": targets[4]},
        dict(zip(("inputs", "targets"), given.batch(jnp.int32(14)), strict=True)),
    )


def chi_square(counts: NDArray[np.int64]) -> float:
    expected = counts.mean()
    return float(((counts - expected) ** 2 / expected).sum())


@contextmanager
def torch_starts(starts: NDArray[np.int64]) -> Iterator[None]:
    """`torch.randint` gives these rows in turn, whatever it is asked."""
    with mock.patch.object(torch, "randint", side_effect=list(torch.tensor(starts))):
        yield


def test_checks():
    assert_all(checks(0))

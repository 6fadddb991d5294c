"""Characters to ids and back, the split, and the batches: integers, so equal or not."""

import tempfile
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
from jax_attn.training.host_batches import HostBatches
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
    yield from host_batch_checks(rng)


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
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(text)
            file.flush()
            corpus = jax_attn.load_corpus(file.name, print)
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


def host_batch_checks(rng: np.random.Generator) -> Checks:
    """Windows gathered on the host: those of the device, and beyond 2^31 places those of a rule."""
    data = (rng.permutation(23) + 200).astype(np.uint8)
    key = jax.random.key(int(rng.integers(2**31)))
    on_device = jax_attn.RandomBatches(jnp.asarray(data), key, 3, 5)
    host = HostBatches(data, key, 3, 5)
    for step in (0, 7, 2**31 - 1):
        yield same_bits(
            f"the batch of step {step}, gathered on the host",
            dict(zip(("inputs", "targets"), on_device.batch(jnp.int32(step)), strict=True)),
            dict(zip(("inputs", "targets"), host.batch(jnp.int32(step)), strict=True)),
        )
    n_starts = 11 * 2**59  # five in sixteen of the numbers of 64 bits are drawn again
    wide = HostBatches(Endless(n_starts + 5), key, 4, 5)
    for step in range(6):
        starts = np.asarray(wide.given(step, 1).inputs)[0, :, 0]
        expected = np.array([_place(key, step, row, n_starts) for row in range(4)], np.uint64)
        yield same_bits(f"places beyond 2^31 of step {step}", expected, starts)


def _place(key: jax.Array, step: int, row: int, n_starts: int) -> int:
    """By the rule, in Python's own integers."""
    for again in range(100):
        stream = jax.random.fold_in(jax.random.fold_in(key, step), again)
        high, low = map(int, jax.random.bits(stream, (4, 2), jnp.uint32)[row])
        number = (high << 32) + low
        if number < 2**64 // n_starts * n_starts:
            return number % n_starts
    raise AssertionError("a hundred numbers in a row")


class Endless:
    """Tokens of which each is its own place."""

    dtype = np.dtype(np.uint64)

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.uint64]:
        return places.astype(np.uint64)


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

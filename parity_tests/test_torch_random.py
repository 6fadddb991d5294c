"""Every stream of torch_random against torch itself, bit for bit.

The reference is torch 2.13's CPU build on x86-64 with AVX2 or AVX-512.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st

from jax_attn import Generator
from jax_attn.torch_replay.random_math import affine, box_muller32
from parity_tests.torch_streams import Call, assert_same, replay

# ---------------------------------------------------------------- single streams


@pytest.mark.parametrize("call", [
    ("rand", 1_000_003), ("rand64", 300_000), ("uniform", -0.3, 1.7, 1_000_003),
    ("randn", 1_000_003), ("randn", (1000, 1000)), ("randn64", 300_001),
    ("normal", 0.5, 0.02, 1_000_003), ("linear", 768, 768), ("embedding", 65, 384),
    ("dropout", 0.2, (1000, 1001)), ("bernoulli", 0.3, 1_000_000), ("randint", 0, 65, 1_000_000),
    ("exponential", 1_000_001), ("exponential64", 300_000), ("multinomial", 1000, 0),
    ("multinomial64", 1000, 0), ("multinomial", 1000, 1, 0.05), ("randperm", 100_000),
    ("uniform", 1.0, 1 + 2**-23, 1000),  # half the values round up to the excluded bound
], ids=str)  # fmt: skip
def test_many_values(call: Call) -> None:
    replay(1337, call, ("rand", 3))


@pytest.mark.parametrize(
    "name", ["rand", "rand64", "randn", "randn64", "exponential", "exponential64"]
)
def test_every_small_size(name: str) -> None:
    for size in [*range(41), 47, 48, 49, 255, 256, 257, 1023, 1024, 1025]:
        replay(size, (name, size), ("randn", 1), (name, size), ("rand", 2))
    replay(3, *((name, shape) for shape in [(), (1,), (0, 3), (2, 0), (3, 5), (4, 2, 2), [2, 3]]))


@pytest.mark.parametrize(
    "seed", [0, 1337, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**64 - 1, -1, -5, -(2**63)]
)
def test_seeds(seed: int) -> None:
    replay(seed, ("rand", 700), ("randn", 17), ("randn", 3))


SPANS = [1, 2, 65, 2**28 - 1, 2**28, 2**28 + 1, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 8]


@pytest.mark.parametrize("low", [0, -1, -(2**27), 7, -(2**63)])
@pytest.mark.parametrize("span", SPANS)
def test_randint_ranges(low: int, span: int) -> None:
    """64 bits a value from a range of 2**28 on; nothing special at 2**32."""
    replay(span % 1000, ("randint", low, low + span, (20, 50)), ("rand", 1))


def test_randint_over_all_of_int64() -> None:
    replay(5, ("randint", -(2**63), 2**63 - 1, 1000))


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.1, 0.2, 0.5, 0.9, 1.0])
def test_probabilities(p: float) -> None:
    replay(11, ("dropout", p, (7, 5)), ("rand", 2), ("bernoulli", p, 1000), ("rand", 2))


@pytest.mark.parametrize("seed", range(50))
def test_few_normals_are_fused(seed: int) -> None:
    """With mean = -round(z * std), what is left is the rounding error of the product."""
    std = 0.1 + seed / 7
    mean = -float(Generator(seed).randn(1, np.float64)[0] * std)
    assert Generator(seed).normal(mean, std, 1) != 0
    replay(seed, ("normal", mean, std, 1))


def test_dropout_of_a_transpose_draws_in_memory_order() -> None:
    torch.manual_seed(3)
    mask = F.dropout(torch.ones(6, 5, 4).transpose(0, 2), 0.5) != 0
    assert_same(Generator(3).dropout_mask(0.5, (6, 5, 4)).T, mask.contiguous())


def test_linear_bound_is_torchs_in_float32() -> None:
    fan_in = np.arange(1, 1_000_001, dtype=np.float64)
    theirs = np.sqrt(3.0) * (np.sqrt(2.0 / (1 + np.sqrt(5.0) ** 2)) / np.sqrt(fan_in))
    np.testing.assert_array_equal(
        theirs.astype(np.float32), (1 / np.sqrt(fan_in)).astype(np.float32)
    )


# ---------------------------------------------------------------- chosen draws


def untempered(draws: np.ndarray) -> np.ndarray:
    """The twister's state words that come out as these 32-bit draws."""
    y = np.asarray(draws, np.uint32)
    y = y ^ (y >> 18)
    y = half = y ^ ((y << 15) & 0xEFC60000)
    for _ in range(4):
        half = y ^ ((half << 7) & 0x9D2C5680)
    y = half
    for _ in range(2):
        half = y ^ (half >> 11)
    return half


class ChosenDraws:
    """Makes torch's generator return up to 623 chosen 32-bit draws."""

    def __init__(self) -> None:
        self._bytes = torch.manual_seed(0).get_state().numpy().copy()
        self._bytes[8:12].view(np.int32)[:] = 624  # words left before the next twist
        self._bytes[16:24].view(np.int64)[:] = 0  # the next word
        self._words = self._bytes[24 : 24 + 624 * 8].view(np.int64)

    def load(self, words: np.ndarray) -> None:
        self._words[: words.size] = words
        torch.set_rng_state(torch.from_numpy(self._bytes))


@pytest.mark.parametrize("angles", [False, True])
def test_box_muller_on_every_24_bit_uniform(angles: bool) -> None:
    """All 2**24 radii (at angle 0), then all 2**24 angles (at the draw whose radius is exactly 1).

    This proves that `_fma`'s double rounding never shows, not just that it is rare.
    """
    chosen, out = ChosenDraws(), torch.empty(608)
    for sweep in np.array_split(np.arange(2**24 + 240).reshape(-1, 38 * 8) % 2**24, 8):
        sweep = sweep.reshape(-1, 38, 8)
        constant = np.full_like(sweep, 6601320 if angles else 0)
        draws = np.stack([constant, sweep] if angles else [sweep, constant], axis=2)
        theirs = np.empty((len(sweep), 608), np.float32)
        for row, words in zip(theirs, untempered(draws.reshape(-1, 608)), strict=True):
            chosen.load(words)
            row[:] = out.normal_().numpy()
        unit = draws.reshape(-1, 2, 8).astype(np.float32) * np.float32(2**-24)
        ours = box_muller32(1 - unit[:, 0], unit[:, 1]) + np.float32(0)
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "row", [[0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0], [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1]]
)
def test_multinomial_when_a_draw_is_exactly_zero(row: list[float], dtype: type) -> None:
    words = untempered(np.array([5, 7, 0, 0, 9, 9, 0, 0]))
    ChosenDraws().load(words)
    generator = Generator(0)
    generator._twister.set_state(("MT19937", np.pad(words, (0, 616)), 0, 0, 0.0))
    probs = np.array([row], dtype)
    assert_same(generator.multinomial(probs), torch.multinomial(torch.from_numpy(probs), 1))


float32s = st.floats(width=32, allow_nan=False, min_value=-(2.0**60), max_value=2.0**60)


@given(x=float32s, scale=float32s, shift=float32s)
@example(x=1 + 2**-12, scale=1 + 2**-12, shift=2.0**-80)  # a hair above a tie: up
@example(x=1 + 2**-12, scale=1 + 2**-12, shift=-(2.0**-80))  # a hair below it: down
@example(x=3 * 2.0**-70, scale=2.0**-79, shift=2.0**-130)  # a subnormal result
def test_affine_rounds_once(x: float, scale: float, shift: float) -> None:
    ours = affine(np.array([x], np.float32), np.float32(scale), np.float32(shift))
    exact = Fraction(x) * Fraction(scale) + Fraction(shift)
    below, above = (np.nextafter(ours[0], np.float32(end)) for end in (-np.inf, np.inf))
    error = abs(Fraction(float(ours[0])) - exact)
    nearest = min(abs(Fraction(float(below)) - exact), abs(Fraction(float(above)) - exact))
    even = ours.view(np.uint32)[0] % 2 == 0
    assert error < nearest or (error == nearest and even)

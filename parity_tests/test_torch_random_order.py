"""The streams share one state as in torch: any calls in any order, bit for bit; and bad calls."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_attn import Generator
from parity_tests.torch_streams import Call, assert_same, replay

float32s = st.floats(width=32, allow_nan=False, min_value=-(2.0**60), max_value=2.0**60)
seeds = st.one_of(st.integers(-(2**63), 2**64 - 1), st.sampled_from([0, 1337, 2**32 - 1]))
shapes = st.one_of(st.integers(0, 70), st.lists(st.integers(0, 9), max_size=3).map(tuple))
few = st.integers(1, 15)
probabilities = st.floats(0, 1)
bounds = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2, unique=True).map(sorted)
edges = st.lists(float32s, min_size=2, max_size=2).map(sorted)
numbers = st.floats(-1e6, 1e6).map(lambda x: x + 0.0)  # a mean of -0.0 is not replayed
scales = st.floats(0, 1e6)
widths = st.integers(1, 20)
rows = st.tuples(st.integers(0, 4), st.integers(0, 99), st.sampled_from([0.01, 0.3, 1.0, 3.0]))

ANY_CALL = st.one_of(
    st.tuples(st.sampled_from(["rand", "rand64", "randn", "randn64"]), shapes),
    st.tuples(st.sampled_from(["exponential", "exponential64"]), shapes),
    st.tuples(st.sampled_from(["bernoulli", "dropout"]), probabilities, shapes),
    st.builds(lambda ends, shape: ("randint", *ends, shape), bounds, shapes),
    st.builds(lambda ends, shape: ("uniform", *ends, shape), edges, shapes),
    st.tuples(st.just("normal"), numbers, scales, shapes),
    rows.map(lambda row: ("multinomial", *row)),
    st.tuples(st.just("randperm"), st.integers(0, 60)),
    st.tuples(st.just("linear"), widths, widths, st.booleans()),
    st.tuples(st.just("embedding"), widths, widths),
)


@given(seeds, st.lists(ANY_CALL, min_size=1, max_size=8))
@settings(deadline=None, max_examples=200)
def test_any_calls_in_any_order(seed: int, calls: list[Call]) -> None:
    replay(seed, *calls)


@given(seeds, st.lists(st.tuples(numbers, scales, few, ANY_CALL), min_size=1, max_size=5))
@settings(deadline=None, max_examples=100)
def test_the_second_normal_waits_through_other_calls(seed: int, steps: list[Call]) -> None:
    replay(seed, *(c for mean, std, n, call in steps for c in (("normal", mean, std, n), call)))


@given(seeds, st.lists(st.tuples(st.just("randint"), bounds, shapes), min_size=1, max_size=6))
@settings(deadline=None, max_examples=100)
def test_narrow_and_wide_integers_mix(seed: int, calls: list[Call]) -> None:
    narrow = [("randint", ends[0], min(ends[1], ends[0] + 97), shape) for _, ends, shape in calls]
    wide = [("randint", *ends, shape) for _, ends, shape in calls]
    replay(seed, *(call for pair in zip(narrow, wide, strict=True) for call in pair))


@given(seeds, st.lists(st.tuples(edges, numbers, scales, st.integers(0, 200)), max_size=4))
@settings(deadline=None, max_examples=100)
def test_scaled_streams_round_as_torch(seed: int, steps: list[Call]) -> None:
    for ends, mean, std, n in steps:
        replay(seed, ("uniform", *ends, n), ("normal", mean, std, n), ("uniform", *ends, 3))


@given(seeds, widths, widths, probabilities, rows)
@settings(deadline=None, max_examples=100)
def test_a_model_is_built_trained_and_sampled(
    seed: int, vocab: int, width: int, p: float, row: Call
) -> None:
    replay(
        seed,
        ("randint", 0, 1000, 4),
        ("embedding", vocab, width),
        ("linear", width, 3 * width, False),
        ("linear", 3 * width, vocab),
        ("dropout", p, (4, width)),
        ("multinomial", *row),
        ("randn", 5),
    )


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "bad_call",
    [
        lambda g: Generator(2**64),
        lambda g: Generator(-(2**63) - 1),
        lambda g: g.rand(-1),
        lambda g: g.rand((2, -3)),
        lambda g: g.rand(2, np.int32),
        lambda g: g.randn(2, np.float16),
        lambda g: g.uniform(1.0, 0.0, 3),
        lambda g: g.uniform(float("nan"), 1.0, 3),
        lambda g: g.uniform(-3e38, 3e38, 3),
        lambda g: g.uniform(0.0, 1e39, 3),
        lambda g: g.normal(0.0, -1.0, 3),
        lambda g: g.normal(float("nan"), 1.0, 3),
        lambda g: g.randint(5, 5, 3),
        lambda g: g.randint(6, 5, 3),
        lambda g: g.randint(0, 2**63, 3),
        lambda g: g.bernoulli(1.1, 3),
        lambda g: g.bernoulli(float("nan"), 3),
        lambda g: g.dropout_mask(-0.1, 3),
        lambda g: g.dropout_mask(float("nan"), 3),
        lambda g: g.multinomial(np.array([[0.5, -0.5]], np.float32)),
        lambda g: g.multinomial(np.array([[0.5, np.nan]], np.float32)),
        lambda g: g.multinomial(np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)),
        lambda g: g.multinomial(np.array([0.5, 0.5], np.float32)),
        lambda g: g.multinomial(np.array([[0.5, 0.5]], np.float16)),
        lambda g: g.multinomial(np.zeros((2, 0), np.float32)),
        lambda g: g.randperm(-1),
        lambda g: g.randperm(2**31),
        lambda g: g.linear(0, 3),
    ],
)
def test_bad_arguments_raise_one_line_and_draw_nothing(bad_call: Callable[..., Any]) -> None:
    generator = Generator(1)
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        bad_call(generator)
    assert_same(generator.rand(4), torch.rand(4, generator=torch.Generator().manual_seed(1)))

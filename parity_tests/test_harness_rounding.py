"""Rounded to float32 the bits are the same, or it is said where they are not."""

from typing import Any

import numpy as np
import pytest
import torch

from parity_tests.harness.rounding import bit_identical_after_rounding


def _random() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 7, 5))


def test_rounded_to_float32_the_bits_are_the_same() -> None:
    x = np.concatenate([_random().ravel(), [0.0, np.inf, np.nan, 1e-40, 1e-300]])
    report = bit_identical_after_rounding(torch.tensor(x), x * (1 + 3e-16))
    assert (report.ok, report.total, report.identical) == (True, 75, 75)
    wrong = x.copy()
    wrong[3] *= 1 + 1e-6
    report = bit_identical_after_rounding(x, wrong)
    assert (report.ok, report.differing, report.first_differing) == (False, 1, (3,))
    assert "1 differ, the first at [3]" in str(report)
    signed = x.copy()
    signed[70] = -0.0
    assert not bit_identical_after_rounding(x, signed).ok
    assert not bit_identical_after_rounding(x, np.nan_to_num(x, posinf=np.inf)).ok
    assert not bit_identical_after_rounding(np.array([]), np.array([])).ok


def test_only_a_rounding_boundary_excuses_other_bits() -> None:
    below = np.float32(0.3)
    midpoint = (float(below) + float(np.nextafter(below, np.float32(1)))) / 2
    ref, port = np.array([midpoint * (1 - 2e-15), 0.5]), np.array([midpoint * (1 + 2e-15), 0.5])
    report = bit_identical_after_rounding(ref, port)
    assert (report.ok, report.identical, report.at_boundary) == (True, 1, 1)
    for distance in (1e-12, 1e-9):  # the same neighbours, but no rounding error explains it
        far = np.array([midpoint * (1 + distance), 0.5])
        assert not bit_identical_after_rounding(ref, far).ok


def test_rounding_wants_float64_of_one_shape() -> None:
    x: Any = _random()
    with pytest.raises(ValueError, match="float64 is asked, got float64 and float32"):
        bit_identical_after_rounding(x, x.astype(np.float32))
    with pytest.raises(ValueError, match="shape"):
        bit_identical_after_rounding(x, x[0])

"""Every number that the five published notebooks print, three ways; then the lecture's own.

By `torch_ref`, torch drawing; by `jax_attn` on the tensors that torch draws; by `jax_attn` alone in
a process that cannot import torch. The table is `jax_attn.lecture.PUBLISHED`.
"""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from jax_attn import Generator
from jax_attn.lecture import (
    NOT_REPRODUCIBLE,
    PUBLISHED,
    Published,
    compare,
    count_places,
    demonstrate,
    lecture_corpus,
)
from parity_tests.torch_lecture import torch_values

NOTEBOOK_OUTPUTS = 129
EDGE_NUMBERS = 6  # at most so many of all numbers are printed otherwise, at the edge of a digit
FLOAT32_EPS = float(np.finfo(np.float32).eps)


class TorchGenerator(Generator):
    """torch's own global stream behind the methods of `Generator`."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)

    def rand(self, shape, dtype=np.float32):
        assert dtype is np.float32
        return torch.rand(_sizes(shape)).numpy()

    def randn(self, shape, dtype=np.float32):
        assert dtype is np.float32
        return torch.randn(_sizes(shape)).numpy()

    def randint(self, low, high, shape):
        return torch.randint(low, high, _sizes(shape)).numpy()

    def linear(self, in_features, out_features, bias=True):
        layer = torch.nn.Linear(in_features, out_features, bias)
        return layer.weight.detach().numpy(), layer.bias.detach().numpy() if bias else None

    def embedding(self, num, dim):
        return torch.nn.Embedding(num, dim).weight.detach().numpy()

    def multinomial(self, probs):
        return torch.multinomial(torch.from_numpy(np.array(probs)), 1).numpy()


def _sizes(shape: Any) -> list[int]:
    return np.atleast_1d(shape).tolist()


def require_all_as_printed(values: dict[str, Any]) -> None:
    """Nothing missing, nothing beyond, nothing different; prints how many of how many."""
    assert values.keys() == PUBLISHED.keys()
    comparisons = {name: compare(value, PUBLISHED[name]) for name, value in values.items()}
    different = {
        name: (c.ours, PUBLISHED[name].printed) for name, c in comparisons.items() if not c.same
    }
    assert not different
    same = [PUBLISHED[name] for name, comparison in comparisons.items() if comparison.same]
    edges = sum(comparison.at_an_edge for comparison in comparisons.values())
    print(f"{count_places(same)} of {NOTEBOOK_OUTPUTS} printed outputs, {edges} numbers at an edge")
    assert count_places(same) == NOTEBOOK_OUTPUTS
    assert edges <= EDGE_NUMBERS


def test_torch_ref() -> None:
    values: dict[str, Any] = {}
    for some in torch_values(lecture_corpus):
        values |= some
    require_all_as_printed(values)
    # The two losses after training hold to more digits here: torch's own float32.
    assert float(values["loss after 100 steps"]) == 4.65630578994751
    ulp = 2 * FLOAT32_EPS  # of a float32 between 2 and 4; the notebook ran on another processor
    assert abs(float(values["loss after training"]) - 2.440112590789795) <= ulp


def test_jax_attn_on_the_tensors_torch_draws() -> None:
    values: dict[str, Any] = {}
    for _, some in demonstrate(TorchGenerator):
        values |= some
    require_all_as_printed(values)


def test_jax_attn_where_torch_cannot_be_imported() -> None:
    """`python -m jax_attn.lecture`, with every import of torch failing."""
    program = (
        "import runpy, sys\n"
        "sys.modules['torch'] = None\n"
        "runpy.run_module('jax_attn.lecture', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = done.stdout.splitlines()
    for name in PUBLISHED:
        assert any(line.startswith(f"{name}  ok") for line in lines), name
    assert f"{NOTEBOOK_OUTPUTS} of {NOTEBOOK_OUTPUTS} reproducible outputs" in done.stdout


def test_every_output_is_cited_and_those_that_cannot_be_are_listed_with_the_reason() -> None:
    assert count_places(PUBLISHED.values()) == NOTEBOOK_OUTPUTS
    assert {place[:3] for entry in PUBLISHED.values() for place in entry.notebook_places} == {
        "000",
        "001",
        "002",
        "003",
        "004",
    }
    assert len(NOT_REPRODUCIBLE) == 6
    assert all(NOT_REPRODUCIBLE.values())


def test_the_unseeded_means_follow_from_the_x_printed_beside_them() -> None:
    """002 In [49] as far as it goes: its x is known to 4 decimals, so its means are to as many."""
    x = np.array([
        [-0.2726, -0.5487], [-0.3130, -1.5860], [0.5492, -1.8602], [-0.5576, -2.0523],
        [-0.1684, -0.1545], [-2.1030, 0.7475], [-0.2567, 0.5828], [0.4637, -0.6562],
    ])  # fmt: skip
    means = np.array([
        [-0.2726, -0.5487], [-0.2928, -1.0674], [-0.0122, -1.3317], [-0.1485, -1.5118],
        [-0.1525, -1.2404], [-0.4776, -0.9090], [-0.4460, -0.6959], [-0.3323, -0.6910],
    ])  # fmt: skip
    computed = np.cumsum(x, axis=0) / np.arange(1, 9)[:, None]
    np.testing.assert_allclose(computed, means, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("value", "printed", "same", "edges"),
    [
        ([1.0, 2.00004], "1.0000 2.0000", True, 0),
        ([1.0, 2.00006], "1.0000 2.0000", False, 0),
        ([1.0], "1.0000 2.0000", False, 0),
        ([8.0, 20.0], "8. 20.", True, 0),
        ([8.001, 20.0], "8. 20.", False, 0),
        ([np.nan], "8.", False, 0),
        ([-np.inf, 0.0], "-inf 0.", True, 0),
        ([0.0], "-inf", False, 0),
        (True, "True", True, 0),
        (False, "True", False, 0),
        ((4, 8), "4 8", True, 0),
        ((4, 9), "4 8", False, 0),
        (7.9985e-7, "7.9985e-07", True, 0),
        (7.9986e-7, "7.9985e-07", False, 0),
        (0.19067504, "1.9067e-01", True, 1),  # 3 units in the last place from the edge
        (0.1906752, "1.9067e-01", False, 0),
        ("a\n", "a\n", True, 0),
        ("a", "a\n", False, 0),
    ],
)
def test_compare(value: Any, printed: str, same: bool, edges: int) -> None:
    comparison = compare(value, Published(printed, ()))
    assert (comparison.same, comparison.at_an_edge) == (same, edges)

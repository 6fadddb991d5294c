"""What a verdict says of that which inputs and weights do not show."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from parity_tests import locate, tap
from parity_tests.harness.record import record
from parity_tests.harness.unseen import _alike, unseen

draw = np.random.default_rng(0).normal


def said_of(model: torch.nn.Module, inputs: Any) -> tuple[str, ...]:
    model = model.double()
    return unseen(model, inputs, record(model, inputs).calls)


def windows(layer: Callable[..., torch.nn.Module], *args: Any, size: Any, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return said_of(layer(*args, **kwargs), draw(size=(2, 3, *size)))


@pytest.mark.parametrize(
    ("layer", "args", "kwargs", "size", "other"),
    [
        (torch.nn.Conv1d, (3, 4, 3, 2), {"padding": 1}, (5,), 6),
        (torch.nn.Conv1d, (3, 4, 3, 2), {"padding": 1}, (6,), None),
        (torch.nn.Conv2d, (3, 4, 3, 2), {"padding": 1}, (5, 7), 6),
        (torch.nn.Conv2d, (3, 4, 3, 2), {"padding": 1}, (5, 6), None),
        (torch.nn.MaxPool2d, (2,), {}, (4, 4), 5),
        (torch.nn.MaxPool2d, (2,), {}, (4, 5), None),
        (torch.nn.AvgPool1d, (3,), {"stride": 2, "padding": 1}, (7,), 8),
        (torch.nn.MaxPool2d, (2,), {"ceil_mode": True}, (4, 4), None),
        # With stride 1 both are one at all sizes, or at none.
        (torch.nn.Conv1d, (3, 4, 3), {"padding": 1}, (5,), None),
        (torch.nn.Conv1d, (3, 4, 3), {"padding": "same"}, (5,), None),
        (torch.nn.ConvTranspose1d, (3, 4, 3, 2), {"padding": 1}, (5,), None),
    ],
)
def test_sizes_at_which_two_paddings_are_one(layer, args, kwargs, size, other):
    told = [s for s in windows(layer, *args, size=size, **kwargs) if "SAME" in s]
    assert len(told) == (other is not None)
    if other is not None:
        assert told[0].endswith(f"at size {other} they are not")


@pytest.mark.parametrize(("reach", "before"), [(3, 1), (2, 0), (3, 0), (4, 1)])
def test_they_are_one_where_jax_computes_the_same(reach, before):
    window = jnp.asarray(draw(size=(1, 1, reach)))
    for size in range(5, 9):
        x = jnp.asarray(draw(size=(1, 1, size)))
        ours, theirs = (
            jax.lax.conv_general_dilated(x, window, (2,), padding)
            for padding in ("SAME", [(before, before)])
        )
        same = ours.shape == theirs.shape and bool((ours == theirs).all())
        assert _alike(size, reach, 2, before) == same, size


def test_weights_that_are_one_number():
    model = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    assert said_of(model, draw(size=(3, 4))) == (
        "0.weight: 1 throughout, so that a port without it may agree; give random values",
        "0.bias: 0 throughout, so that a port without it may agree; give random values",
    )
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    assert said_of(model, draw(size=(3, 4))) == ()


class Masked(torch.nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, x, 0)


@pytest.mark.parametrize("as_keywords", [False, True])
def test_a_mask_of_ones(as_keywords):
    x, mask = draw(size=(2, 3)), np.ones((2, 3), bool)
    inputs: Any = {"x": x, "mask": mask} if as_keywords else (x, mask)
    name = "'mask'" if as_keywords else "1"
    said = f"input {name}: True throughout, so that a port that leaves it out may agree"
    assert said_of(Masked(), inputs) == (said,)
    mask[0, 1] = False
    assert said_of(Masked(), inputs) == ()


@pytest.mark.usefixtures("in_float64")
def test_the_report_says_so_and_the_verdict_stays():
    """A port that has forgotten the mask."""

    def port(x: jax.Array, mask: jax.Array) -> jax.Array:
        return tap("out", x)

    found = locate(Masked(), port, (draw(size=(2, 3)), np.ones((2, 3), bool)), {})
    assert found.outcome == "same"
    assert "what these inputs and weights do not show:\n    input 1: True throughout" in str(found)

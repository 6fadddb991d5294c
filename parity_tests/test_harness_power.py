"""What the float32 tier can and cannot tell, as its verdict says."""

from typing import Any

import numpy as np
import pytest
import torch

from parity_tests import BUDGETS, Budget, Report, compare

SEMANTIC, FORWARD = BUDGETS["semantic"], BUDGETS["forward"]
RANDOM = np.random.default_rng(0)


def norm(x: Any, epsilon: float, fast: bool = False) -> Any:
    """Layer norm in the precision of x, in NumPy."""
    mean = x.mean(-1, keepdims=True)
    variance = (x * x).mean(-1, keepdims=True) - mean**2 if fast else x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + x.dtype.type(epsilon))


def in_both_tiers(size: float, mean: float, epsilon: float, fast: bool) -> tuple[Report, Report]:
    x = RANDOM.normal(mean * size, size, (2, 7, 64)).astype(np.float32)
    exact, tensor = x.astype(np.float64), torch.from_numpy(x)
    ref64, ref32 = (
        torch.nn.functional.layer_norm(t, (64,), eps=1e-6) for t in (tensor.double(), tensor)
    )
    return (
        compare(ref64, norm(exact, epsilon, fast)),
        compare(ref32, norm(x, epsilon, fast), ref64, budget=FORWARD),
    )


@pytest.mark.parametrize(
    ("size", "mean", "epsilon", "fast", "same", "accused"),
    [
        (1, 0, 1e-6, False, True, False),
        (1, 0, 1e-5, False, False, True),  # 5e-6 of the output
        (30, 0, 1e-5, False, False, False),  # 5e-9: passes
        (1, 8, 1e-6, True, True, True),  # the same function, less accurate
    ],
)
def test_what_each_tier_says_of_a_norm(
    size: float, mean: float, epsilon: float, fast: bool, same: bool, accused: bool
) -> None:
    semantic, numeric = in_both_tiers(size, mean, epsilon, fast)
    assert semantic.ok is same
    assert numeric.ok is not accused


def test_the_float32_verdict_says_what_it_cannot_see() -> None:
    semantic, numeric = in_both_tiers(1, 0, 1e-6, False)
    assert semantic.limits == ""
    assert numeric.limits in str(numeric)
    assert f"a fault that changes value by less than {numeric.sees:.1e} passes" in numeric.limits
    assert 2e-7 < numeric.sees < 5e-7


def test_what_it_says_is_so() -> None:
    """A change of the exact result by less passes, by more is seen."""
    exact = RANDOM.normal(size=500)
    ref = exact * (1 + 1e-7 * RANDOM.normal(size=500))
    sees = compare(ref, exact, exact, budget=FORWARD).sees
    for factor, ok in ((0.99, True), (1.01, False)):
        assert compare(ref, exact * (1 + factor * sees), exact, budget=FORWARD).ok is ok
    report = compare({"a": exact, "b": np.arange(3)}, {"a": exact, "b": np.arange(3)})
    assert report.sees == SEMANTIC.floor
    assert compare(np.arange(3), np.arange(3)).sees == 0


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_power_is_what_the_reference_leaves(budget: Budget) -> None:
    assert budget.power == budget.factor * budget.ref_error + budget.floor
    assert (budget.ref_error > 0) == (budget.factor > 0)
    assert budget.power >= SEMANTIC.power == 1e-12


def test_the_measured_error_of_nine_in_ten_gpts() -> None:
    """FORWARD's figure again, on a few models: within a factor of two."""
    from torch_ref import GPTLanguageModel

    errors = []
    for seed in range(4):
        torch.manual_seed(seed)
        model = GPTLanguageModel(23, 16, n_layer=2, n_head=3, n_embd=15, dropout=0.0)
        with torch.no_grad():
            for p in model.parameters():
                p.normal_(0, p.shape[-1] ** -0.5 if p.ndim > 1 else 1)
            tokens = torch.randint(23, (2, 13))
            logits = model(tokens)[0].double()
            exact = model.double()(tokens)[0]
        errors.append(((logits - exact).norm() / exact.norm()).item())
    assert FORWARD.ref_error / 2 < max(errors) < FORWARD.ref_error * 2

"""The transformer block: both residual branches, the norms before them, the feed-forward net."""

from typing import Any

import numpy as np

from parity_tests.suite import pairs
from parity_tests.suite.pairs import BLOCK, STYLES, B, C, T
from parity_tests.suite.tiers import Checks, assert_all, both_tiers


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    for style in STYLES:
        pair = pairs.block(style)
        arrays = {"weights": pair.weights(rng), "x": rng.normal(size=(B, T, C)) * 3}
        yield from both_tiers(f"{style} block", *pair.functions(observe_block), arrays)
    for activation in ("relu", "gelu", "gelu_tanh"):
        pair = pairs.feed_forward(activation)
        arrays = {"weights": pair.weights(rng), "x": rng.normal(size=(B, T, C)) * 3}
        yield from both_tiers(
            f"{activation} feed-forward", *pair.functions(lambda m, a: m(a["x"])), arrays
        )
    pair = pairs.block()
    for length in (1, BLOCK):
        arrays = {"weights": pair.weights(rng), "x": rng.normal(size=(B, length, C))}
        yield from both_tiers(f"block T={length}", *pair.functions(lambda m, a: m(a["x"])), arrays)


def observe_block(block: Any, arrays: Any) -> dict[str, Any]:
    """The block's output, and what each part makes of the block's input."""
    x = arrays["x"]
    return {
        "ln1": block.ln1(x),
        "ln2": block.ln2(x),
        "sa": block.sa(x),
        "ffwd": block.ffwd(x),
        "wei": block.sa.weights(block.ln1(x)),
        "output": block(x),
    }


def test_checks():
    assert_all(checks(0))

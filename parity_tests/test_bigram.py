"""The bigram table and the lecture's first attentive model, one head between embeddings."""

from typing import Any

import numpy as np

import jax_attn
import jax_attn.training.step
from parity_tests.harness.budgets import LOSS
from parity_tests.suite import pairs
from parity_tests.suite.pairs import BLOCK, B, T
from parity_tests.suite.tiers import (
    Checks,
    assert_all,
    both_tiers,
    same_bits_after_rounding,
    semantic,
)


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    for name, pair in (("bigram", pairs.bigram()), ("single head", pairs.single_head())):
        for shape in ((B, T), (1, BLOCK)):
            arrays = {
                "weights": pair.weights(rng),
                "idx": pairs.tokens(rng, *shape),
                "targets": pairs.tokens(rng, *shape),
            }
            label = f"{name} {shape[0]}×{shape[1]}"
            logits = pair.functions(lambda m, a: m(a["idx"])[0], lambda m, a: m(a["idx"]))
            yield from both_tiers(f"{label} logits", *logits, arrays)
            loss = pair.functions(lambda m, a: m(a["idx"], a["targets"])[1], port_loss)
            if name == "bigram":
                yield from both_tiers(f"{label} loss", *loss, arrays, budget=LOSS)
            else:  # in float32 the logits' own rounding is more than the loss's budget
                yield semantic(f"{label} loss", *loss, arrays)
                weights = pair.functions(reference_weights, port_weights)
                yield from both_tiers(f"{label} wei", *weights, arrays)
                yield same_bits_after_rounding(f"{label} wei", *weights, arrays)


def port_loss(model: Any, arrays: Any) -> Any:
    """As in training: the bigram model looks its losses up where there are enough of them."""
    total, count = jax_attn.training.step.loss_fn(model, arrays["idx"], arrays["targets"])
    return total / count


def reference_weights(model: Any, arrays: Any) -> Any:
    idx = arrays["idx"]
    embedded = (
        model.token_embedding_table(idx) + model.position_embedding_table.weight[: idx.shape[1]]
    )
    return model.sa_head.weights(embedded)


def port_weights(model: Any, arrays: Any) -> Any:
    return model.attention_weights(arrays["idx"])[0, :, 0]


def test_checks():
    assert_all(checks(0))

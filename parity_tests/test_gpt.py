"""The whole GPT: every hidden state, every `wei`, the logits."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from parity_tests.suite import pairs
from parity_tests.suite.pairs import BLOCK, STYLES, B, Pair, T
from parity_tests.suite.tiers import (
    Checks,
    assert_all,
    bfloat16,
    both_tiers,
    same_bits_after_rounding,
)


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    for style in STYLES:
        yield from checks_of_pair(f"{style} GPT", pairs.gpt(style), rng, (B, T))
    yield from checks_of_pair("GPT, T = 1", pairs.gpt(), rng, (1, 1))
    yield from checks_of_pair("GPT, T = block", pairs.gpt("gpt2"), rng, (B, BLOCK))
    yield from checks_of_pair("GPT of one head", pairs.gpt(n_head=1), rng, (B, T))
    for style in STYLES:
        # Its weights and inputs have bfloat16's few bits; so do its activations.
        pair = pairs.gpt(style, compute_dtype=jnp.bfloat16)
        arrays = {"weights": pair.weights(rng), "idx": pairs.tokens(rng, B, T)}
        logits = pair.functions(lambda m, a: m(a["idx"])[0], lambda m, a: m(a["idx"]))
        yield bfloat16(f"{style} GPT, logits", *logits, arrays)


def checks_of_pair(
    name: str, pair: Pair, rng: np.random.Generator, shape: tuple[int, int]
) -> Checks:
    vocab_size: Any = pair.make_reference().lm_head.out_features  # pyright: ignore
    idx = pairs.tokens(rng, *shape, vocab_size=vocab_size)
    arrays = {"weights": pair.weights(rng), "idx": idx}
    yield from both_tiers(name, *pair.functions(observe_reference, observe_port), arrays)
    weights = pair.functions(lambda m, a: m.attention_weights(a["idx"]))
    yield same_bits_after_rounding(f"wei of {name}", *weights, arrays)


def observe_reference(model: Any, arrays: Any) -> dict[str, Any]:
    idx = arrays["idx"]
    x = model.token_embedding_table(idx) + model.position_embedding_table(
        torch.arange(idx.shape[1])
    )
    states = {"embedded": x}
    for i, block in enumerate(model.blocks):
        x = states[f"block {i}"] = block(x)
    states["ln_f"] = model.ln_f(x)
    return states | {"wei": model.attention_weights(idx), "logits": model(idx)[0]}


def observe_port(model: Any, arrays: Any) -> dict[str, Any]:
    idx = arrays["idx"]
    x = model.embed(idx)
    states = {"embedded": x}
    for i, block in enumerate(model.blocks):
        x = states[f"block {i}"] = block(x)
    states["ln_f"] = model.ln_f(x)
    return states | {"wei": model.attention_weights(idx), "logits": model(idx)}


def test_checks():
    assert_all(checks(0))


@pytest.mark.parametrize(
    ("style", "n_layer", "n_head", "head_size", "vocab_size", "shape"),
    [("gpt2", 3, 2, 1, 13, (1, BLOCK)), ("lecture", 1, 1, 4, 1, (2, 1))],
)
def test_any_shape(style, n_layer, n_head, head_size, vocab_size, shape):
    pair = pairs.gpt(
        style, n_layer=n_layer, n_head=n_head, n_embd=n_head * head_size, vocab_size=vocab_size
    )
    assert_all(checks_of_pair("GPT", pair, np.random.default_rng(2), shape))

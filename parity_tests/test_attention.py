"""Attention: `wei` and output of heads and multi-head attention, and the fused kernel.

The reference has one matrix a head and forms `wei`; the port has one matrix for all.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
import pytest
import torch
from jax.experimental.pallas.tpu import force_tpu_interpret_mode

import jax_attn.nn.flash
import torch_ref
from parity_tests.harness.budgets import GRADIENT
from parity_tests.suite import pairs
from parity_tests.suite.pairs import BLOCK, B, C, H, K, Pair, S, T
from parity_tests.suite.tiers import (
    Check,
    Checks,
    assert_all,
    both_tiers,
    numeric,
    same_bits_after_rounding,
)

TPU_LENGTH = 640
LONG = 131  # more than the fused kernel's query block, and no multiple of it


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    heads = {
        "causal head": pairs.head(),
        "encoder head": pairs.head(causal=False),
        "unscaled head": pairs.head(scale=1.0),
        "square head": pairs.head(C, C),
        "multi-head": pairs.multi_head(),
        "encoder multi-head": pairs.multi_head(causal=False),
        "biased multi-head": pairs.multi_head(qkv_bias=True),
        "unscaled multi-head without biases": pairs.multi_head(proj_bias=False, scale=1.0),
        "one-head multi-head": pairs.multi_head(C, 1),
    }
    for name, pair in heads.items():
        yield from checks_of_pair(name, pair, rng, (B, T, C))
    for length in (1, BLOCK):
        yield from checks_of_pair(
            f"multi-head T={length}", heads["multi-head"], rng, (B, length, C)
        )
    for name in ("causal head", "encoder head", "multi-head"):
        for length in (T, S):
            label = f"cross {name} T={T} S={length}"
            yield from checks_of_pair(label, heads[name], rng, (B, T, C), source_length=length)
    yield from kernel_checks(rng)
    yield from masked_checks(rng)
    yield tpu_kernel_check(rng)


def checks_of_pair(
    name: str,
    pair: Pair,
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    source_length: int | None = None,
) -> Checks:
    """`wei` and output in both tiers, and the literal claim about the bits of `wei`."""
    arrays: dict[str, Any] = {"weights": pair.weights(rng), "x": rng.normal(size=shape)}
    if source_length is not None:
        arrays["context"] = rng.normal(size=(shape[0], source_length, shape[2]))
    yield from both_tiers(name, *pair.functions(observe), arrays)
    yield same_bits_after_rounding(f"wei of {name}", *pair.functions(observe_weights), arrays)


def observe(module: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
    x, context = arrays["x"], arrays.get("context")
    return {"wei": module.weights(x, context), "output": module(x, context)}


def observe_weights(module: Any, arrays: Mapping[str, Any]) -> Any:
    return module.weights(arrays["x"], arrays.get("context"))


def kernel_checks(rng: np.random.Generator) -> Checks:
    """The fused kernel against the lecture's formula, past its own block of queries."""
    shape = (1, H, LONG, K)
    arrays = {name: rng.normal(size=shape) * 2 for name in ("query", "key", "value")}
    kernels: list[tuple[Literal["explicit", "blocked"], float | None]]
    kernels = [("explicit", None), ("blocked", None), ("blocked", 0.3)]
    for implementation, scale in kernels:
        yield from both_tiers(
            f"{implementation} kernel T={LONG}{'' if scale is None else ', its own scale'}",
            lambda a, s=scale: lecture_attention(a["query"], a["key"], a["value"], scale=s),
            lambda a, how=implementation, s=scale: jax_attn.dot_product_attention(
                a["query"], a["key"], a["value"], scale=s, implementation=how
            ),
            arrays,
        )
    yield from both_tiers(
        "kernel, not causal, its own scale",
        lambda a: lecture_attention(a["query"], a["key"], a["value"], causal=False, scale=0.3),
        lambda a: jax_attn.dot_product_attention(
            a["query"], a["key"], a["value"], causal=False, scale=0.3
        ),
        {name: value[:, :, :T] for name, value in arrays.items()},
    )


def tpu_kernel_check(rng: np.random.Generator) -> Check:
    """The TPU's own kernel, run as Mosaic's interpreter runs it on a CPU, forward and backward.

    It has no float64. With 640 positions there are five blocks of them, on both sides.
    """
    names = ("query", "key", "value")
    arrays = {name: rng.normal(size=(1, 2, TPU_LENGTH, 8)) * 2 for name in (*names, "cotangent")}

    def reference(a: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        query, key, value = inputs = [a[name].requires_grad_() for name in names]
        output = lecture_attention(query, key, value, scale=0.3)
        gradients = torch.autograd.grad(output, inputs, a["cotangent"])
        return {"output": output, **dict(zip(names, gradients, strict=True))}

    def port(a: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        with force_tpu_interpret_mode():
            output, derivative = jax.vjp(
                lambda q, k, v: jax_attn.nn.flash.tpu_flash_attention(q, k, v, 0.3),
                *(a[name] for name in names),
            )
            return {
                "output": output,
                **dict(zip(names, derivative(a["cotangent"]), strict=True)),
            }

    return numeric(f"TPU kernel T={TPU_LENGTH}", reference, port, arrays, budget=GRADIENT)


def masked_checks(rng: np.random.Generator) -> Checks:
    """Where finite stand-ins for -inf are found out, and the rows and columns that one can mix up.

    Scores of -1e12 lie below any finite fill in use. A row that may see nothing is NaN in torch.
    """
    arrays = {"query": rng.normal(size=(B, T, K)), "key": rng.normal(size=(B, T, K))}
    seen = rng.random((T, T)) < 0.5
    seen[3] = False
    seen[4] = True
    for name, mask in (("causal", np.tril(np.ones((T, T), bool))), ("random", seen)):
        yield from both_tiers(
            f"{name} mask",
            lambda a: lecture_weights(a["query"], a["key"], a["mask"]),
            lambda a: jax_attn.attention_weights(a["query"], a["key"], mask=a["mask"]),
            arrays | {"mask": mask},
        )
    one = np.full((1, T, 1), 1e6)
    yield from both_tiers(
        "scores of -1e12",
        lambda a: lecture_weights(a["query"], a["key"], a["mask"]),
        lambda a: jax_attn.attention_weights(a["query"], a["key"], mask=a["mask"]),
        {"query": one, "key": -one, "mask": np.tril(np.ones((T, T), bool))},
    )
    yield from both_tiers(
        "columns normalised on request",
        lambda a: lecture_weights(a["query"], a["key"], a["mask"], dim=-2),
        lambda a: jax_attn.attention_weights(a["query"], a["key"], mask=a["mask"], axis=-2),
        arrays | {"mask": np.tril(np.ones((T, T), bool))},
    )
    yield from both_tiers(
        "causal_mask",
        lambda a: torch.tril(torch.ones(T, T, dtype=torch.bool)),
        lambda a: jax_attn.causal_mask(T),
        arrays,
    )


def lecture_weights(query, key, mask, dim=-1, scale=None):
    wei = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return torch.softmax(wei.masked_fill(~mask, float("-inf")), dim=dim)


def lecture_attention(query, key, value, causal=True, scale=None):
    length = query.shape[-2]
    mask = torch.ones(length, length, dtype=torch.bool)
    return lecture_weights(query, key, mask.tril() if causal else mask, scale=scale) @ value


def test_checks():
    assert_all(checks(0))


@pytest.mark.parametrize(
    ("batch", "length", "source_length", "n_head", "head_size"),
    [(1, 9, None, 4, 1), (3, 2, 6, 1, 6)],
)
def test_any_shape(batch, length, source_length, n_head, head_size):
    n_embd = n_head * head_size
    pair = pairs.multi_head(n_embd, n_head)
    rng = np.random.default_rng(2)
    assert_all(checks_of_pair("multi-head", pair, rng, (batch, length, n_embd), source_length))


def test_reference_head_is_the_formula():
    """The lecture's class and the formula above agree: either may be the yardstick."""
    head = torch_ref.Head(C, K, BLOCK).double()
    x = torch.randn(B, T, C, dtype=torch.float64)
    expected = lecture_attention(head.query(x), head.key(x), head.value(x))
    torch.testing.assert_close(head(x), expected, rtol=0, atol=1e-15)

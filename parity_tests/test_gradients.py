"""Gradients: every leaf and every input, of a random combination of the outputs and of the loss.

A random cotangent, because the sum of a softmax or of a norm's output has no gradient at all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jax_attn
import jax_attn.training.step
from jax_attn.nn.blocked import CORES, POSITIONS_AT_ONCE
from jax_attn.nn.layers import ACTIVATIONS
from parity_tests.harness.budgets import GRADIENT
from parity_tests.suite import pairs
from parity_tests.suite.gradients import (
    by_reference_name,
    clear_of_kinks,
    heads_joined,
    port_gradients,
    reference_gradients,
)
from parity_tests.suite.pairs import STYLES, B, C, H, K, Pair, S, T, V
from parity_tests.suite.tiers import Arrays, Checks, assert_all, both_tiers
from parity_tests.test_attention import lecture_attention, lecture_weights
from parity_tests.test_loss import output_arrays, output_in_parts, output_reference

LONG = 131  # past the fused kernel's query block
MANY = 1 + CORES * POSITIONS_AT_ONCE // (H * LONG)  # more than it takes at once
IGNORE = -1
OUTPUT = ("hidden", "matrix", "bias")


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    yield from module_checks(rng)
    yield from function_checks(rng)
    models = {"bigram": pairs.bigram(), "single head": pairs.single_head()}
    models |= {f"{style} GPT": pairs.gpt(style) for style in STYLES}
    for name, pair in models.items():
        yield from model_checks(name, pair, rng)


def model_checks(name: str, pair: Pair, rng: np.random.Generator) -> Checks:
    """With 14 tokens of 11 kinds every model sees some id twice: its row's gradients must add."""

    def draw() -> Arrays:
        return model_arrays(pair, rng) | {"cotangent": rng.normal(size=(B, T, V))}

    arrays = draw_smooth(pair, draw, lambda m, a: m(a["idx"]))
    yield from both_tiers(
        f"{name}, random cotangent",
        *pair.functions(
            lambda m, a: reference_gradients(
                m, a, lambda m, a: (m(a["idx"])[0] * a["cotangent"]).sum(), ()
            ),
            lambda m, a: port_gradients(
                m, a, lambda m, a: (m(a["idx"]) * a["cotangent"]).sum(), ()
            ),
        ),
        arrays,
        budget=GRADIENT,
    )
    for parts in (1, 2) if name == "single head" else (1,):
        yield from both_tiers(
            f"{name}, loss{'' if parts == 1 else ' in two parts'}",
            *pair.functions(
                lambda m, a: reference_gradients(
                    m, a, lambda m, a: m(a["idx"], a["targets"])[1], ()
                ),
                lambda m, a, parts=parts: loss_gradients(m, a, parts),
            ),
            arrays,
            budget=GRADIENT,
        )


def model_arrays(pair: Pair, rng: np.random.Generator) -> dict[str, Any]:
    """Weights, tokens, and targets of which two are to be ignored."""
    targets = pairs.tokens(rng, B, T)
    targets[0, 2:4] = IGNORE
    return {"weights": pair.weights(rng), "idx": pairs.tokens(rng, B, T), "targets": targets}


def loss_gradients(model: Any, arrays: Any, parts: int) -> dict[str, Any]:
    optimizer = jax_attn.make_optimizer(jax_attn.OptimizerConfig(), 1e-3, 1)
    state = jax_attn.TrainState.create(model, optimizer)
    _, gradients, _ = jax_attn.training.step.loss_and_gradients(
        state, arrays["idx"], arrays["targets"], parts
    )
    named = by_reference_name(nnx.merge(state.graphdef, gradients, state.rest))
    return heads_joined(named, np.stack)


def module_checks(rng: np.random.Generator) -> Checks:
    """Weights' gradients and inputs', through attention to itself and to a context."""
    modules = {
        "head": (pairs.head(), K, ("x",)),
        "multi-head": (pairs.multi_head(qkv_bias=True), C, ("x",)),
        "encoder multi-head": (pairs.multi_head(causal=False), C, ("x",)),
        "cross multi-head": (pairs.multi_head(), C, ("x", "context")),
        "block": (pairs.block(), C, ("x",)),
    }
    for name, (pair, channels, inputs) in modules.items():

        def draw(pair=pair, channels=channels, inputs=inputs) -> Arrays:
            drawn = {"x": rng.normal(size=(B, T, C)), "context": rng.normal(size=(B, S, C))}
            return {
                "weights": pair.weights(rng),
                "cotangent": rng.normal(size=(B, T, channels)),
            } | {key: drawn[key] for key in inputs}

        def scalar(m, a, inputs=inputs):
            return (m(*(a[key] for key in inputs)) * a["cotangent"]).sum()

        arrays = draw_smooth(pair, draw, scalar)
        reference, port = pair.functions(
            lambda m, a, f=scalar, i=inputs: reference_gradients(m, a, f, i),
            lambda m, a, f=scalar, i=inputs: port_gradients(m, a, f, i),
        )
        yield from both_tiers(name, reference, port, arrays, budget=GRADIENT)


def function_checks(rng: np.random.Generator) -> Checks:
    """The fused kernel past its block and in groups, a row that sees nothing, ReLU at exactly 0."""
    names = ("query", "key", "value")
    for of_kernel, batch in {"": 1, ", in groups": MANY}.items():
        shape = (batch, H, LONG, K)
        arrays = {name: rng.normal(size=shape) for name in (*names, "cotangent")}
        yield from both_tiers(
            f"blocked kernel T={LONG}{of_kernel}",
            lambda a: torch_function(lecture_attention, a, names),
            lambda a: jax_function(
                partial(jax_attn.dot_product_attention, implementation="blocked"), a, names
            ),
            arrays,
            budget=GRADIENT,
        )
    yield from both_tiers(
        "output matrix and loss in parts",
        lambda a: torch_function(of_output(output_reference, a), a, OUTPUT),
        lambda a: jax_function(of_output(output_in_parts, a), a, OUTPUT),
        {**output_arrays(rng), "cotangent": rng.normal(size=())},
        budget=GRADIENT,
    )
    mask = np.tril(np.ones((T, T), bool))
    mask[3] = False
    arrays = {
        "query": rng.normal(size=(B, T, K)),
        "key": rng.normal(size=(B, T, K)),
        "mask": mask,
        "cotangent": rng.normal(size=(B, T, T)),
    }
    arrays["cotangent"][:, 3] = 0  # that row's weights are NaN, and so would the sum be
    yield from both_tiers(
        "a row that sees nothing",
        lambda a: torch_function(
            lambda q, k: lecture_weights(q, k, a["mask"]).nan_to_num(0.0), a, names[:2]
        ),
        lambda a: jax_function(
            lambda q, k: nan_to_num(jax_attn.attention_weights(q, k, mask=a["mask"])), a, names[:2]
        ),
        arrays,
        budget=GRADIENT,
    )
    x = np.concatenate([np.zeros(3), rng.normal(size=8)])
    for activation, reference in (
        ("relu", torch.relu),
        ("gelu", torch.nn.functional.gelu),
        ("gelu_tanh", lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    ):
        yield from both_tiers(
            f"{activation}, at 0 too",
            lambda a, f=reference: torch_function(f, a, ("x",)),
            lambda a, name=activation: jax_function(ACTIVATIONS[name], a, ("x",)),
            {"x": x, "cotangent": rng.normal(size=x.shape)},
            budget=GRADIENT,
        )


def of_output(loss: Callable[[Any], Any], arrays: Any) -> Callable[..., Any]:
    """A loss of named arrays as a function of OUTPUT."""
    return lambda *given: loss(
        dict(zip(OUTPUT, given, strict=True)) | {"targets": arrays["targets"]}
    )


def torch_function(function: Callable[..., Any], arrays: Any, names: tuple[str, ...]) -> Any:
    given = [arrays[name].requires_grad_() for name in names]
    gradients = torch.autograd.grad((function(*given) * arrays["cotangent"]).sum(), given)
    return dict(zip(names, gradients, strict=True))


def jax_function(function: Callable[..., Any], arrays: Any, names: tuple[str, ...]) -> Any:
    def of(given: Any) -> Any:
        return (function(*(given[name] for name in names)) * arrays["cotangent"]).sum()

    return jax.grad(of)({name: arrays[name] for name in names})


def nan_to_num(x: jax.Array) -> jax.Array:
    return jnp.nan_to_num(x, nan=0.0)


def draw_smooth(pair: Pair, draw: Callable[[], Arrays], run: Callable[[Any, Any], Any]) -> Arrays:
    """Draws until the function is smooth around what was drawn."""
    while True:
        arrays = draw()
        tensors = {name: torch.tensor(value) for name, value in arrays.items() if name != "weights"}
        weights = {name: torch.tensor(value) for name, value in arrays["weights"].items()}
        module = pair.reference(weights)
        if clear_of_kinks(module, lambda m, given=tensors: run(m, given)):
            return arrays


def test_checks():
    assert_all(checks(0))

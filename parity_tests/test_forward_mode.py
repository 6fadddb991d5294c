"""Forward mode: tangents along a random direction, and a loss's Hessian times that direction.

The port's derivatives are written out for reverse mode; `torch.func.jvp` says what the others are.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch.func import functional_call

import jax_attn
from jax_attn.nn.layers import ACTIVATIONS
from parity_tests.harness.budgets import GRADIENT, SECOND_DERIVATIVE
from parity_tests.suite import pairs
from parity_tests.suite.gradients import by_reference_name, heads_joined
from parity_tests.suite.pairs import B, C, H, K, Pair, S, T
from parity_tests.suite.tiers import Arrays, Function, assert_all, both_tiers, numeric, semantic
from parity_tests.test_attention import lecture_attention
from parity_tests.test_gradients import OUTPUT, draw_smooth, model_arrays, of_output
from parity_tests.test_loss import output_arrays, output_in_parts, output_reference

MODELS = {
    "bigram": pairs.bigram(),
    "single head": pairs.single_head(),
    "GPT": pairs.gpt("lecture", n_layer=1),
}
MODULES = {
    "head": (pairs.head(), ("x",)),
    "multi-head": (pairs.multi_head(qkv_bias=True), ("x",)),
    "cross multi-head": (pairs.multi_head(), ("x", "context")),
    "block": (pairs.block(), ("x",)),
}
QKV = ("query", "key", "value")
LONG = 131  # past the blocked kernel's query block


def torch_functional(pair: Pair, arrays: Any) -> tuple[Callable[..., Any], Any, Any]:
    """The module as a function of its parameters and inputs, those parameters, a direction."""
    module = pair.reference(arrays["weights"])
    names = [name for name, _ in module.named_parameters()]
    weights, direction = (
        {name: arrays[of][name] for name in names} for of in ("weights", "direction")
    )
    return lambda weights, *inputs: functional_call(module, weights, inputs), weights, direction


def jax_functional(pair: Pair, arrays: Any) -> tuple[nnx.GraphDef[Any], Any, Any, Any]:
    graphdef, weights, rest = nnx.split(pair.port(arrays["weights"]), nnx.Param, ...)
    return graphdef, rest, weights, nnx.state(pair.port(arrays["direction"]), nnx.Param)


def of_module(pair: Pair, inputs: tuple[str, ...]) -> tuple[Function, Function]:
    """The output's tangent, weights and inputs all moving."""

    def in_torch(a: Any) -> Any:
        call, weights, direction = torch_functional(pair, a)
        given = tuple(a[name] for name in inputs)
        moved = tuple(a[f"direction of {name}"] for name in inputs)
        return torch.func.jvp(call, (weights, *given), (direction, *moved))[1]

    def in_jax(a: Any) -> Any:
        graphdef, rest, weights, direction = jax_functional(pair, a)
        given = tuple(a[name] for name in inputs)
        moved = tuple(a[f"direction of {name}"] for name in inputs)

        @jax.jit
        def tangent(*primals_and_tangents: Any) -> Any:
            def call(weights: Any, *inputs: Any) -> Any:
                return nnx.merge(graphdef, weights, rest)(*inputs)

            return jax.jvp(call, *primals_and_tangents)[1]

        return tangent((weights, *given), (direction, *moved))

    return in_torch, in_jax


def of_model(pair: Pair, derivatives: tuple[str, ...]) -> tuple[Function, Function]:
    """Tangents of logits and of the loss, and the loss's Hessian times the direction."""

    def in_torch(a: Any) -> dict[str, Any]:
        call, weights, direction = torch_functional(pair, a)

        def logits(weights: Any) -> Any:
            return call(weights, a["idx"])[0]

        def loss(weights: Any) -> Any:
            return call(weights, a["idx"], a["targets"])[1]

        functions = {"logits": logits, "loss": loss, "Hessian": torch.func.grad(loss)}
        found = {
            name: torch.func.jvp(functions[name], (weights,), (direction,))[1]
            for name in derivatives
        }
        if "Hessian" in found:
            found["Hessian"] = heads_joined(found["Hessian"], torch.stack)
        return found

    def in_jax(a: Any) -> dict[str, Any]:
        graphdef, rest, weights, direction = jax_functional(pair, a)

        def logits(weights: Any) -> Any:
            return nnx.merge(graphdef, weights, rest)(a["idx"])

        def loss(weights: Any) -> Any:
            return jax_attn.next_token_loss(logits(weights), a["targets"])

        functions = {"logits": logits, "loss": loss, "Hessian": jax.grad(loss)}

        @jax.jit
        def tangents(weights: Any, direction: Any) -> dict[str, Any]:
            return {
                name: jax.jvp(functions[name], (weights,), (direction,))[1] for name in derivatives
            }

        found = tangents(weights, direction)
        if "Hessian" in found:
            named = by_reference_name(nnx.merge(graphdef, found["Hessian"], rest))
            found["Hessian"] = heads_joined(named, np.stack)
        return found

    return in_torch, in_jax


@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    pair, inputs = MODULES[name]
    rng = np.random.default_rng(0)

    def draw() -> Arrays:
        given = {"x": rng.normal(size=(B, T, C)), "context": rng.normal(size=(B, S, C))}
        return {"weights": pair.weights(rng)} | {name: given[name] for name in inputs}

    arrays = draw_smooth(pair, draw, lambda m, a: m(*(a[name] for name in inputs)))
    directions = {f"direction of {n}": rng.normal(size=arrays[n].shape) for n in inputs}
    directions |= {"direction": pair.weights(rng)}
    assert_all(
        both_tiers(name, *of_module(pair, inputs), {**arrays, **directions}, budget=GRADIENT)
    )


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    pair, rng = MODELS[name], np.random.default_rng(0)

    smooth = draw_smooth(pair, lambda: model_arrays(pair, rng), lambda m, a: m(a["idx"]))
    arrays = {**smooth, "direction": pair.weights(rng)}
    assert_all(
        iter(
            [
                semantic(name, *of_model(pair, ("logits", "loss", "Hessian")), arrays),
                numeric(name, *of_model(pair, ("logits",)), arrays, budget=GRADIENT),
                numeric(name, *of_model(pair, ("Hessian",)), arrays, budget=SECOND_DERIVATIVE),
            ]
        )
    )


def tangent(jvp: Any, function: Callable[..., Any], arrays: Any, names: tuple[str, ...]) -> Any:
    """Of a function of the named arrays, each of which moves along "d" and its name."""
    given, moved = ([arrays[f"{d}{name}"] for name in names] for d in ("", "d"))
    return jvp(function, tuple(given), tuple(moved))[1]


def test_attention_in_blocks():
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(1, H, LONG, K)) for name in (*QKV, *(f"d{n}" for n in QKV))}
    blocked = partial(jax_attn.dot_product_attention, implementation="blocked")
    assert_all(
        both_tiers(
            "blocked",
            lambda a: tangent(torch.func.jvp, lecture_attention, a, QKV),
            lambda a: tangent(jax.jvp, jax.jit(blocked), a, QKV),
            arrays,
            budget=GRADIENT,
        )
    )


def test_output_matrix_and_loss_in_parts():
    rng = np.random.default_rng(0)
    arrays = dict(output_arrays(rng))
    arrays |= {f"d{name}": rng.normal(size=arrays[name].shape) for name in OUTPUT}
    assert_all(
        both_tiers(
            "in parts",
            lambda a: tangent(torch.func.jvp, of_output(output_reference, a), a, OUTPUT),
            lambda a: tangent(jax.jvp, of_output(output_in_parts, a), a, OUTPUT),
            arrays,
            budget=GRADIENT,
        )
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_at_zero_too(name):
    reference = {
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": partial(torch.nn.functional.gelu, approximate="tanh"),
    }[name]
    rng = np.random.default_rng(0)
    x = np.concatenate([np.zeros(3), rng.normal(size=8)])
    assert_all(
        both_tiers(
            name,
            lambda a: tangent(torch.func.jvp, reference, a, ("x",)),
            lambda a: tangent(jax.jvp, ACTIVATIONS[name], a, ("x",)),
            {"x": x, "dx": rng.normal(size=x.shape)},
            budget=GRADIENT,
        )
    )

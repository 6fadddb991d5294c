"""The layers a GPT is made of, each alone, where frameworks disagree by default."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional as F

import jax_attn
import jax_attn.nn.layers
import jax_attn.nn.ops.activations
import jax_attn.nn.ops.look_up
from parity_tests.suite.pairs import B, C, T, V
from parity_tests.suite.tiers import Checks, assert_all, both_tiers, holds, in_jax


def checks(seed: int) -> Checks:
    rng = np.random.default_rng(seed)
    yield from linear_checks(rng)
    yield from embedding_checks(rng)
    yield from layer_norm_checks(rng)
    yield from activation_checks(rng)


def linear_checks(rng: np.random.Generator) -> Checks:
    cases = (
        ("", (B, T, C), V),
        (" of a vector", (C,), V),
        (" of many axes", (2, 3, 1, C), V),
        (" of one row, large", (1, 1, 768), 400),  # the port takes these in parts
    )
    for label, shape, outputs in cases:
        for use_bias in (True, False):
            arrays = {"x": rng.normal(size=shape), "weight": rng.normal(size=(outputs, shape[-1]))}
            if use_bias:
                arrays["bias"] = rng.normal(size=outputs)
            yield from both_tiers(
                f"linear{label}{'' if use_bias else ' without bias'}",
                lambda a: F.linear(a["x"], a["weight"], a.get("bias")),
                apply_linear,
                arrays,
            )


def apply_linear(arrays: Mapping[str, Any]) -> Any:
    weight, bias = arrays["weight"], arrays.get("bias")
    layer = made(
        lambda rngs: jax_attn.nn.layers.linear(
            weight.shape[1],
            weight.shape[0],
            use_bias=bias is not None,
            kernel_init=jax_attn.nn.layers.zeros,
            rngs=rngs,
            dtype=None,
            param_dtype=weight.dtype,
        )
    )
    layer.kernel[...] = weight.T
    if bias is not None:
        layer.bias[...] = bias
    return layer(arrays["x"])


def embedding_checks(rng: np.random.Generator) -> Checks:
    arrays = {"table": rng.normal(size=(V, C)), "idx": rng.integers(0, V, (B, T))}
    arrays["idx"][0, :2] = 0, V - 1
    yield from both_tiers(
        "embedding", lambda a: F.embedding(a["idx"], a["table"]), apply_embedding, arrays
    )
    # torch raises for these. Compiled code cannot; it must not read another id's row instead.
    rows = in_jax(apply_embedding, arrays | {"idx": np.array([[-1, V, 2**31 - 1]])}, np.float64)
    yield holds("an id outside the table gives NaN", bool(np.isnan(rows).all()))


def apply_embedding(arrays: Mapping[str, Any]) -> Any:
    table = arrays["table"]
    layer = made(
        lambda rngs: jax_attn.nn.layers.Embedding(
            *table.shape,
            embedding_init=jax_attn.nn.layers.zeros,
            rngs=rngs,
            param_dtype=table.dtype,
        )
    )
    layer.embedding[...] = table
    return layer(arrays["idx"])


def layer_norm_checks(rng: np.random.Generator) -> Checks:
    """A large mean finds the fast variance, a small spread finds epsilon's size and place."""
    for label, mean, spread in (
        ("", 1.0, 3.0),
        (" of mean 100", 1e2, 1.0),
        (" of ±0.003", 0, 3e-3),
    ):
        arrays = {
            "x": mean + spread * rng.normal(size=(13 * B, T, C)),
            "scale": rng.normal(size=C),
            "bias": rng.normal(size=C),
        }
        for epsilon in (1e-5, 1e-3):
            yield from both_tiers(
                f"layer norm{label}, epsilon {epsilon:g}",
                lambda a, eps=epsilon: F.layer_norm(a["x"], (C,), a["scale"], a["bias"], eps),
                lambda a, eps=epsilon: apply_layer_norm(a, eps),
                arrays,
            )


def apply_layer_norm(arrays: Mapping[str, Any], epsilon: float) -> Any:
    scale = arrays["scale"]
    layer = made(
        lambda rngs: jax_attn.nn.layers.layer_norm(
            scale.shape[0], epsilon=epsilon, rngs=rngs, dtype=None, param_dtype=scale.dtype
        )
    )
    layer.scale[...] = scale
    layer.bias[...] = arrays["bias"]
    return layer(arrays["x"])


def activation_checks(rng: np.random.Generator) -> Checks:
    """Over the range where the two GELUs part and beyond it; 0 and both signs of it."""
    x = np.concatenate([rng.uniform(-10, 10, 100), rng.normal(size=100), [0.0, -0.0, 50.0, -50.0]])
    references = {
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    }
    for name, reference in references.items():
        yield from both_tiers(
            name,
            lambda a, f=reference: f(a["x"]),
            lambda a, name=name: jax_attn.nn.layers.ACTIVATIONS[name](a["x"]),
            {"x": x},
        )


def made(make: Callable[[nnx.Rngs], Any]) -> Any:
    """The layer, its parameters still to be filled: shapes alone are traced, nothing is drawn."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    state = nnx.map_state(lambda _, s: jnp.asarray(np.full(s.shape, np.nan, s.dtype)), state)
    return nnx.merge(graphdef, state)


def test_checks():
    assert_all(checks(0))


def test_reference_raises_for_ids_outside_the_table():
    with pytest.raises(IndexError):
        F.embedding(torch.tensor([V]), torch.zeros(V, C))

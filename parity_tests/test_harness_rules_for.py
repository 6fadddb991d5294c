"""Ready-made rules of torch's layers: both sides run in float64, forward and backward."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from parity_tests.harness.bridge import Bridge
from parity_tests.harness.compare import assert_parity
from parity_tests.harness.rules_for import NoCounterpart, Target, rules_for
from parity_tests.harness.variables import parameters, take_apart
from parity_tests.layer_pairs import CASES, F64, QUICK, Case, empty


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.name} to {c.target}")
def test_both_sides_are_one_function_with_one_gradient(case: Case) -> None:
    rng = np.random.default_rng(0)
    ref = randomised(case.ref(), rng)
    inputs = [rng.normal(size=shape) for shape in case.inputs]
    expected = case.run(ref, *map(torch.from_numpy, inputs))
    cotangent = rng.normal(size=tuple(expected.shape))
    if expected.requires_grad:
        (expected * torch.from_numpy(cotangent)).sum().backward()
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        bridge = Bridge(rules_for(ref, case.target, **(case.options or {})))
        port = bridge.to_port(ref, in_float64(empty(case)))
        output, gradients = value_and_gradients(port, case.call, inputs, cotangent)
        mapped = bridge.map_gradients(gradients, ref)
    assert_parity(expected, output)
    by_name = {name: p.grad for name, p in ref.named_parameters()}
    if by_name:
        scale = max(float(g.abs().max()) for g in by_name.values() if g is not None)
        assert_parity(by_name, mapped, scale=scale)
    again = bridge.to_reference(port)
    assert set(again) == {n for n, _ in ref.named_buffers() if "batches" not in n} | set(by_name)
    before = {name: np.array(value) for name, value in take_apart(port)[0].items()}
    with jax.enable_x64(True):
        after = take_apart(bridge.to_port(again | batches(ref), port))[0]
    assert after.keys() == before.keys() != set()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


def randomised(ref: nn.Module, rng: np.random.Generator) -> nn.Module:
    ref = ref.double()
    with torch.no_grad():
        for name, value in ref.state_dict().items():
            if value.is_floating_point():
                random = rng.normal(size=tuple(value.shape))
                value.copy_(torch.from_numpy(abs(random) + 0.3 if "var" in name else random))
    return ref


def in_float64(port: Any) -> Any:
    """Flax makes the statistics of a batch norm in float32 whatever it is told."""
    own, rebuild = take_apart(port)
    return rebuild(
        {n: x.astype(F64) if jnp.issubdtype(x.dtype, jnp.floating) else x for n, x in own.items()}
    )


def value_and_gradients(port: Any, call: Any, inputs: Any, cotangent: Any) -> tuple[Any, Any]:
    own, rebuild = take_apart(port)
    # Equinox's statistics are floating-point arrays as its weights are.
    weights = {name: own[name] for name in parameters(port) if not name.startswith("state.")}

    @partial(jax.jit, compiler_options=QUICK)
    def run(weights: Any, inputs: Any, cotangent: Any) -> tuple[Any, Any]:
        output, vjp = jax.vjp(lambda weights: call(rebuild(own | weights), *inputs), weights)
        return output, vjp(cotangent)[0]

    return run(weights, [jnp.asarray(x) for x in inputs], jnp.asarray(cotangent))


def batches(ref: nn.Module) -> dict[str, Any]:
    return {name: b for name, b in ref.named_buffers() if "batches" in name}


@pytest.mark.parametrize(
    ("layer", "target", "message"),
    [
        (lambda: nn.GRU(3, 4), "nnx", "nnx.GRUCell has no bias inside the reset gate"),
        (lambda: nn.LSTM(3, 4, proj_size=2), "linen", "no JAX cell has proj_size"),
        (lambda: nn.ConvTranspose1d(4, 4, 3, groups=2), "linen", "ConvTranspose has no groups"),
        (lambda: nn.Embedding(4, 3, max_norm=1.0), "nnx", "changes its weights when it is called"),
        (lambda: nn.LayerNorm([3, 5]), "nnx", "LayerNorm over 2 axes has weights of shape (3, 5)"),
        (lambda: nn.InstanceNorm1d(3, track_running_stats=True), "equinox", "keep no running"),
        (lambda: nn.BatchNorm1d(3), "equinox", "keeps its statistics in an eqx.nn.State"),
        (lambda: nn.MultiheadAttention(6, 2, add_bias_kv=True), "nnx", "learnt key and value"),
        (
            lambda: nn.MultiheadAttention(6, 2, add_zero_attn=True),
            "linen",
            "key and value of zeros",
        ),
        (lambda: nn.MultiheadAttention(6, 2, kdim=3), "nnx", "keys and values of one size"),
    ],
)
def test_what_a_target_cannot_hold_is_said(layer: Any, target: Target, message: str) -> None:
    with pytest.raises(NoCounterpart) as raised:
        rules_for(layer(), target)
    assert message in str(raised.value)


def test_other_mistakes_are_told_apart() -> None:
    with pytest.raises(TypeError, match="rules_for knows no Sequential"):
        rules_for(nn.Sequential(nn.Linear(2, 3)), "nnx")
    with pytest.raises(ValueError, match='target is "nnx", "linen" or "equinox", not "flax"'):
        rules_for(nn.Linear(2, 3), "flax")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="'cells' is one name for 2 cells"):
        rules_for(nn.LSTM(3, 4, num_layers=2), "linen", port="cells")

"""The locator names the layer in which one bug is planted, forward or backward, and no other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.core import Tracer

import jax_attn.nn.layers
from parity_tests.gated_convnet import BRIDGE, NAMES, Block, Gate, Net, example_input, reference
from parity_tests.harness.bridge import Bridge, Rule
from parity_tests.harness.budgets import FORWARD, GRADIENT
from parity_tests.harness.compare import assert_parity
from parity_tests.harness.layouts import LINEAR
from parity_tests.harness.locate import locate
from parity_tests.harness.location import Location
from parity_tests.suite import pairs
from parity_tests.test_harness_bridge import LECTURE_RULES


class HardGate(Gate):
    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.hard_sigmoid(self.conv(x))


class FrozenGate(Gate):
    """Right forward, no gradient to what is before it."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(jax.lax.stop_gradient(self.conv(x)))


class Float32Gate(Gate):
    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(self.conv(x).astype(jnp.float32))


class SloppyGate(Gate):
    """The same function; in float32 it cancels six of seven digits."""

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(x)
        return jax.nn.sigmoid((y + 1e3) - 1e3)


class MinusBlock(Block):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x - self.value(x) * self.gate(x)


def _located(gate: type[Gate] = Gate, plant: Callable[[Net], None] | None = None) -> Location:
    ref = reference()
    with jax.enable_x64(True):
        port = BRIDGE.to_port(ref, Net(jnp.float64, gate))
        if plant is not None:
            plant(port)
    return locate(ref, port, example_input(), NAMES, bridge=BRIDGE)


def test_a_correct_port_has_no_guilty_layer() -> None:
    location = _located()
    assert location.ok
    assert location.first is None
    assert location.verdict.startswith("no layer differs (")
    checked = {(c.label, c.direction, c.mode) for c in location.checks}
    layers = 1 + 3 * 4 + 1
    assert len(checked) == len(location.checks) == 4 * (layers + 1) + layers  # inputs of layers
    weights = {t.name for c in location.checks if not c.name for t in c.report.tensors}
    assert {name for name, _ in reference().named_parameters()} < weights


def test_a_forward_bug_in_the_middle_is_named() -> None:
    location = _located(HardGate)
    assert [c.label for c in location.guilty] == ["blocks.1.gate"]
    first = location.first
    assert first is not None
    assert (first.direction, first.mode, first.port) == ("forward", "isolated", "blocks.1.gate")
    assert location.verdict == f"first guilty layer: {first}; not compared: 1 (see below)"
    assert location.not_compared == ("without a twin in the reference's names: activation",)
    assert str(first).startswith("blocks.1.gate (forward, isolated): ratio ")
    assert first.report.ratio > 1e9
    assert location.cascaded_failures[0].label == "blocks.1.gate"
    text = str(location)
    assert text.splitlines()[0] == location.verdict
    # Innocent on the reference's input, though its own input is wrong in a run of the whole.
    after = {
        c.mode: c.ok for c in location.checks if c.label == "blocks.2" and c.direction == "forward"
    }
    assert after == {"inputs": False, "cascaded": False, "isolated": True}


def test_a_backward_bug_in_the_middle_is_named() -> None:
    """A stray stop_gradient: every activation of the forward pass is right."""
    location = _located(FrozenGate)
    assert [(c.label, c.direction, c.mode) for c in location.guilty] == [
        ("blocks.1.gate", "backward", "isolated")
    ]
    assert all(c.ok for c in location.checks if c.direction == "forward")
    assert location.cascaded_failures[0].direction == "backward"
    assert location.cascaded_failures[0].label == "blocks.1.gate.conv"


def test_without_a_bridge_the_gradients_of_inputs_still_tell() -> None:
    ref = reference()
    with jax.enable_x64(True):
        port = BRIDGE.to_port(ref, Net(jnp.float64, FrozenGate))
    location = locate(ref, port, example_input(), NAMES)
    assert [c.label for c in location.guilty] == ["blocks.1.gate"]


def test_a_wrong_weight_names_the_leaf() -> None:
    def plant(port: Net) -> None:
        kernel = port.blocks[2].value.kernel
        kernel[...] = kernel[...].swapaxes(1, 2)  # square: [5, 5] channels

    location = _located(plant=plant)
    assert [c.label for c in location.guilty] == ["blocks.2.value"]


def test_wrong_wiring_names_the_layer_that_wires() -> None:
    """All layers inside are right; the sum is not."""

    def plant(port: Net) -> None:
        port.blocks[0].__class__ = MinusBlock

    location = _located(plant=plant)
    assert [c.label for c in location.guilty] == ["blocks.0"]
    assert location.cascaded_failures[0].label == "blocks.0"


def test_wiring_of_the_model_itself() -> None:
    def plant(port: Net) -> None:
        port.blocks = nnx.List([port.blocks[0], port.blocks[2], port.blocks[1]])

    location = _located(plant=plant)
    assert {c.label for c in location.guilty} >= {"blocks.1.gate.conv", "blocks.2.value"}


def test_a_dtype_leak_is_named() -> None:
    location = _located(Float32Gate)
    assert [c.label for c in location.guilty] == ["blocks.1.gate"]
    assert "float32 where float64 is asked, in the port" in str(location)


class PickyGate(Gate):
    """Raises at large inputs, which it never meets behind a stem that gives zeros."""

    def __call__(self, x: jax.Array) -> jax.Array:
        if not isinstance(x, Tracer) and jnp.abs(x).max() > 0.5:
            raise ValueError("too large")
        return super().__call__(x)


class Zeros(nnx.Conv):
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return 0 * super().__call__(inputs)


def test_a_layer_that_raises_is_named() -> None:
    def plant(port: Net) -> None:
        port.stem.__class__ = Zeros
        port.blocks[0].value.__class__ = Zeros

    location = _located(PickyGate, plant)
    assert [c.label for c in location.guilty] == ["stem", "blocks.0.value", "blocks.1.gate"]
    assert "the port's layer raises ValueError: too large" in str(location.guilty[-1].report)


class TwoArrayGate(Gate):
    def __call__(self, x: jax.Array, y: jax.Array | None = None) -> jax.Array:
        return super().__call__(x)


class TwoArrayBlock(Block):
    def __call__(self, x: jax.Array) -> jax.Array:
        gate: Any = self.gate
        return x + self.value(x) * gate(x, x)


def test_another_number_of_arrays_is_no_fault() -> None:
    def plant(port: Net) -> None:
        port.blocks[1].__class__ = TwoArrayBlock

    location = _located(TwoArrayGate, plant)
    assert location.ok
    assert {c.mode for c in location.checks if c.label == "blocks.1.gate"} == {
        "inputs",
        "cascaded",
        "isolated",
    }


class OwnBias(torch.nn.Module):
    """Its bias is beside the layer, where a port has a whole Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = torch.nn.Linear(3, 5, bias=False, dtype=torch.float64)
        self.bias = torch.nn.Parameter(torch.randn(5, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(torch.nn.functional.gelu(x)) + self.bias


class Head(nnx.Module):
    def __init__(self) -> None:
        self.decoder = nnx.Linear(3, 5, param_dtype=jnp.float64, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.decoder(jax.nn.gelu(x))  # tanh


def test_layers_that_do_not_hold_the_same_weights_are_not_held_against_one_another() -> None:
    rules = [Rule("decoder.weight", "decoder.kernel", LINEAR), Rule("bias", "decoder.bias")]
    torch.manual_seed(0)
    ref, x = OwnBias(), np.random.default_rng(0).normal(size=(2, 3))
    with jax.enable_x64(True):
        port = Bridge(rules).to_port(ref, Head())
        location = locate(ref, port, x, {"decoder": "decoder"}, bridge=Bridge(rules))
    assert [check.label for check in location.guilty] == ["model"]
    assert any(
        "its decoder.bias is bias, which the reference's layer does not hold" in sentence
        for sentence in location.not_compared
    )


def test_float32_inaccuracy_is_named_against_a_float64_copy() -> None:
    """The same function in float64; in float32 far less accurate than the reference."""
    assert [c.label for c in _located(SloppyGate).guilty] == []
    ref = reference().float()
    for gate, guilty in ((Gate, []), (SloppyGate, ["blocks.1.gate"])):
        port = BRIDGE.to_port(ref, Net(jnp.float32, gate))
        location = locate(
            ref,
            port,
            example_input(np.float32),
            NAMES,
            FORWARD,
            bridge=BRIDGE,
            backward_budget=GRADIENT,
        )
        assert [c.label for c in location.guilty] == guilty, str(location)


class CountingGate(Gate):
    calls: nnx.Variable

    def __call__(self, x: jax.Array) -> jax.Array:
        self.calls[...] += 1
        return super().__call__(x)


def test_both_models_are_left_as_they_were() -> None:
    """Weights, frozen weights, gradients, and what a layer keeps from call to call."""
    ref = reference()
    ref.head.weight.requires_grad_(False)
    with jax.enable_x64(True):
        port = BRIDGE.to_port(ref, Net(jnp.float64))
        before = BRIDGE.to_reference(port)
        gate: Any = port.blocks[1].gate
        gate.calls = nnx.Variable(jnp.zeros((), jnp.int32))
        gate.__class__ = CountingGate
    state = {name: p.clone() for name, p in ref.state_dict().items()}
    assert locate(ref, port, example_input(), NAMES, bridge=BRIDGE).ok
    assert int(gate.calls[...]) == 0
    del gate.calls
    assert_parity(before, BRIDGE.to_reference(port))
    assert_parity(state, dict(ref.state_dict()))
    assert all(p.grad is None for p in ref.parameters())
    assert not ref.head.weight.requires_grad


def test_names_that_pair_nothing_are_refused() -> None:
    ref = reference()
    with jax.enable_x64(True):
        port = BRIDGE.to_port(ref, Net(jnp.float64))
    with pytest.raises(ValueError, match="no layer of the reference matches trunk"):
        locate(ref, port, example_input(), {**NAMES, "trunk": "stem"})
    with pytest.raises(ValueError, match="stem -> trunk: the port has no layer of that name"):
        locate(ref, port, example_input(), {**NAMES, "stem": "trunk"})


LECTURE_NAMES = {
    "{which}_embedding_table": "{which}_embedding_table",
    "blocks.{i}": "blocks.{i}",
    "blocks.{i}.{part}": "blocks.{i}.{part}",
    "blocks.{i}.sa.proj": "blocks.{i}.sa.proj",
    "blocks.{i}.ffwd.net.0": "blocks.{i}.ffwd.expand",
    "blocks.{i}.ffwd.net.2": "blocks.{i}.ffwd.contract",
    "ln_f": "ln_f",
    "lm_head": "lm_head",
}


def test_the_lectures_own_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separate heads against a fused matrix, token ids as input, a head that borrows its matrix."""
    tied = Rule("lm_head.weight", "token_embedding_table.embedding", alias=True)
    bridge = Bridge([tied, *LECTURE_RULES], ignore=["**.tril"])
    pair = pairs.gpt(n_layer=1, activation="gelu", tie_embeddings=True)
    weights = pair.weights(np.random.default_rng(0))
    ref = pair.reference({name: torch.from_numpy(value) for name, value in weights.items()})
    with jax.enable_x64(True):
        port = pair.port({name: jnp.asarray(value) for name, value in weights.items()})
    tokens = np.random.default_rng(0).integers(0, 11, (2, 7))
    location = locate(ref, port, tokens, LECTURE_NAMES, bridge=bridge)
    assert location.ok, location
    monkeypatch.setitem(jax_attn.nn.layers.ACTIVATIONS, "gelu", jax.nn.gelu)  # which means tanh
    location = locate(ref, port, tokens, LECTURE_NAMES, bridge=bridge)
    assert [c.label for c in location.guilty] == ["blocks.0.ffwd"]

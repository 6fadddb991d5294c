"""Taps and the locator, on a pair of models that is not the lecture's: a gated convolutional net.

torch keeps channels first and flax last, so every activation changes its layout on the way.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.core import Tracer
from torch import Tensor, nn

from parity_tests.harness.bridge import CONV1D, LINEAR, Bridge, Rule
from parity_tests.harness.budgets import FORWARD, GRADIENT
from parity_tests.harness.compare import assert_parity
from parity_tests.harness.locate import locate
from parity_tests.harness.location import Location
from parity_tests.harness.pairing import Twin
from parity_tests.harness.trace import trace

B, L, C_IN, C, OUT = 2, 7, 3, 5, 4


class TorchGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(C, C, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x))


class TorchBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Conv1d(C, C, 3, padding=1)
        self.gate = TorchGate()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value(x) * self.gate(x)


class TorchNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(C_IN, C, 1)
        self.blocks = nn.ModuleList(TorchBlock() for _ in range(3))
        self.activation = nn.ReLU(inplace=True)
        self.head = nn.Linear(C, OUT)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.activation(x).mean(dim=-1))


def _conv(n_in: int, n_out: int, width: int, rngs: nnx.Rngs, dtype: jnp.dtype) -> nnx.Conv:
    return nnx.Conv(n_in, n_out, (width,), padding="SAME", rngs=rngs, param_dtype=dtype)


class Gate(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, dtype: jnp.dtype) -> None:
        self.conv = _conv(C, C, 3, rngs, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(self.conv(x))


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, dtype: jnp.dtype, gate: type[Gate]) -> None:
        self.value = _conv(C, C, 3, rngs, dtype)
        self.gate = gate(rngs, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.value(x) * self.gate(x)


class Net(nnx.Module):
    """`gate` is that of the second block."""

    def __init__(self, dtype: jnp.dtype, gate: type[Gate] = Gate) -> None:
        rngs = nnx.Rngs(0)
        self.stem = _conv(C_IN, C, 1, rngs, dtype)
        self.blocks = nnx.List([Block(rngs, dtype, g) for g in (Gate, gate, Gate)])
        self.head = nnx.Linear(C, OUT, rngs=rngs, param_dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(jax.nn.relu(x).mean(axis=1))


CHANNELS_LAST = (0, 2, 1)
NAMES = {
    "": Twin("", CHANNELS_LAST),
    "stem": Twin("stem", CHANNELS_LAST),
    "blocks.{i}": Twin("blocks.{i}", CHANNELS_LAST),
    "blocks.{i}.**": Twin("blocks.{i}.**", CHANNELS_LAST),
    "head": "head",
}
BRIDGE = Bridge(
    [
        Rule("head.weight", "head.kernel", LINEAR),
        Rule("**.weight", "**.kernel", CONV1D),
        Rule("**.bias", "**.bias"),
    ]
)


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


class BrokenGate(Gate):
    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x)[:, 1:]


class MinusBlock(Block):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x - self.value(x) * self.gate(x)


def _reference() -> TorchNet:
    torch.manual_seed(0)
    return TorchNet().double()


def _input(dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(B, C_IN, L)).astype(dtype)


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def _located(gate: type[Gate] = Gate, plant: Callable[[Net], None] | None = None) -> Location:
    ref = _reference()
    with jax.enable_x64(True):
        port = BRIDGE.to_port(ref, Net(jnp.float64, gate))
        if plant is not None:
            plant(port)
    return locate(ref, port, _input(), NAMES, bridge=BRIDGE)


@pytest.mark.usefixtures("x64")
def test_trace_gives_the_same_taps_on_both_sides() -> None:
    ref = _reference()
    port = BRIDGE.to_port(ref, Net(jnp.float64))
    own = {
        f"blocks.{i}.{part}": f"blocks.{i}.{part}" for i in range(3) for part in ("gate", "value")
    }
    of_ref = trace(ref, _input(), own)
    of_port = trace(port, _input().transpose(CHANNELS_LAST), own)
    assert set(of_ref) == {tap for name in own for tap in (name, f"{name}:input")}
    assert_parity(of_ref, {name: tap.transpose(CHANNELS_LAST) for name, tap in of_port.items()})


def test_trace_names_every_submodule_and_the_model() -> None:
    ref = _reference()
    taps = trace(ref, _input())
    assert set(taps) == {
        tap
        for name in [*dict(ref.named_modules()), "model"]
        if name not in ("", "blocks")
        for tap in (name, f"{name}:input")
    }
    np.testing.assert_array_equal(taps["model"], ref(torch.from_numpy(_input())).detach())
    # The activation works in place; what it was given is still what the last block gave.
    np.testing.assert_array_equal(taps["activation:input"], taps["blocks.2"])
    assert (taps["activation:input"] != taps["activation"]).any()


def test_trace_leaves_no_trace() -> None:
    """Also where the model raises: hooks are gone, classes have their own `__call__`."""
    ref, port = _reference().float(), Net(jnp.float32, BrokenGate)
    before = Gate.__call__, nnx.Conv.__call__, "__call__" in vars(HardGate)
    with pytest.raises(TypeError, match="shape"):
        trace(port, _input(np.float32).transpose(CHANNELS_LAST))
    with pytest.raises(RuntimeError):
        trace(ref, np.ones((1, 2, 3), np.float32))
    assert before == (Gate.__call__, nnx.Conv.__call__, "__call__" in vars(HardGate))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in ref.modules())


class Twice(nnx.Module):
    """One layer, called two times, once through a subclass that calls its base."""

    class Doubling(nnx.Linear):
        def __call__(self, inputs: jax.Array, out_sharding: None = None) -> jax.Array:
            return 2 * super().__call__(inputs)

    def __init__(self) -> None:
        self.plain = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        self.layer = self.Doubling(2, 2, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = self.layer(self.layer(x))
        return y, self.plain(y)


def test_trace_counts_calls_and_numbers_arrays() -> None:
    taps = trace(Twice(), np.ones((1, 2), np.float32), {"it": "layer", "whole": "model"})
    assert set(taps) == {
        "it",
        "it:input",
        "it#2",
        "it#2:input",
        "whole",
        "whole[1]",
        "whole:input",
    }
    np.testing.assert_array_equal(taps["it"], taps["it#2:input"])
    with pytest.raises(ValueError, match="never called, or only inside compiled code: nobody"):
        trace(Twice(), np.ones((1, 2), np.float32), ["nobody"])


def test_a_correct_port_has_no_guilty_layer() -> None:
    location = _located()
    assert location.ok
    assert location.first is None
    assert location.verdict.startswith("no layer differs (")
    checked = {(c.label, c.direction, c.mode) for c in location.checks}
    assert len(checked) == len(location.checks) == 4 * (1 + 1 + 3 * 4 + 1)
    weights = {t.name for c in location.checks if not c.name for t in c.report.tensors}
    assert {name for name, _ in _reference().named_parameters()} < weights


def test_a_forward_bug_in_the_middle_is_named() -> None:
    location = _located(HardGate)
    assert [c.label for c in location.guilty] == ["blocks.1.gate"]
    first = location.first
    assert first is not None
    assert (first.direction, first.mode, first.port) == ("forward", "isolated", "blocks.1.gate")
    assert location.verdict == f"first guilty layer: {first}"
    assert str(first).startswith("blocks.1.gate (forward, isolated): ratio ")
    assert first.report.ratio > 1e9
    assert location.cascaded_failures[0].label == "blocks.1.gate"
    text = str(location)
    assert text.splitlines()[0] == location.verdict
    # Innocent on the reference's input, though its own input is wrong in a run of the whole.
    after = {
        c.mode: c.ok for c in location.checks if c.label == "blocks.2" and c.direction == "forward"
    }
    assert after == {"cascaded": False, "isolated": True}


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
    ref = _reference()
    with jax.enable_x64(True):
        port = BRIDGE.to_port(ref, Net(jnp.float64, FrozenGate))
    location = locate(ref, port, _input(), NAMES)
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
    assert {c.mode for c in location.checks if c.label == "blocks.1.gate"} == {"cascaded"}


def test_float32_inaccuracy_is_named_against_a_float64_copy() -> None:
    """The same function in float64; in float32 far less accurate than the reference."""
    assert [c.label for c in _located(SloppyGate).guilty] == []
    ref = _reference().float()
    for gate, guilty in ((Gate, []), (SloppyGate, ["blocks.1.gate"])):
        port = BRIDGE.to_port(ref, Net(jnp.float32, gate))
        location = locate(
            ref, port, _input(np.float32), NAMES, FORWARD, bridge=BRIDGE, backward_budget=GRADIENT
        )
        assert [c.label for c in location.guilty] == guilty, str(location)


def test_both_models_are_left_as_they_were() -> None:
    ref = _reference()
    with jax.enable_x64(True):
        port = BRIDGE.to_port(ref, Net(jnp.float64))
        before = BRIDGE.to_reference(port)
    state = {name: p.clone() for name, p in ref.state_dict().items()}
    locate(ref, port, _input(), NAMES, bridge=BRIDGE)
    with jax.enable_x64(True):
        assert_parity(before, BRIDGE.to_reference(port))
    assert_parity(state, dict(ref.state_dict()))
    assert all(p.grad is None for p in ref.parameters())


def test_names_that_pair_nothing_are_refused() -> None:
    ref = _reference()
    with jax.enable_x64(True):
        port = BRIDGE.to_port(ref, Net(jnp.float64))
    with pytest.raises(ValueError, match="no layer that the reference calls matches trunk"):
        locate(ref, port, _input(), {**NAMES, "trunk": "stem"})
    with pytest.raises(ValueError, match="call 1 of stem in the reference has no twin: the port"):
        locate(ref, port, _input(), {**NAMES, "stem": "trunk"})

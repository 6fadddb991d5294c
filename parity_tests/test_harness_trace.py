"""Taps have the same names and values on both sides, and leave nothing behind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity_tests.gated_convnet import BRIDGE, CHANNELS_LAST, Gate, Net, example_input, reference
from parity_tests.harness.compare import assert_parity
from parity_tests.harness.trace import trace


class BrokenGate(Gate):
    """Gives an array of another shape, so that the model raises."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x)[:, 1:]


class StillBroken(BrokenGate):
    """Has no `__call__` of its own, and must not keep one."""


def test_trace_gives_the_same_taps_on_both_sides() -> None:
    ref = reference()
    own = {
        f"blocks.{i}.{part}": f"blocks.{i}.{part}" for i in range(3) for part in ("gate", "value")
    }
    of_ref = trace(ref, example_input(), own)
    with jax.enable_x64(True):
        port = BRIDGE.to_port(ref, Net(jnp.float64))
        of_port = trace(port, example_input().transpose(CHANNELS_LAST), own)
    assert set(of_ref) == {tap for name in own for tap in (name, f"{name}:input")}
    assert_parity(of_ref, {name: tap.transpose(CHANNELS_LAST) for name, tap in of_port.items()})


def test_trace_names_every_submodule_and_the_model() -> None:
    ref = reference()
    taps = trace(ref, example_input())
    assert set(taps) == {
        tap
        for name in [*dict(ref.named_modules()), "model"]
        if name not in ("", "blocks")
        for tap in (name, f"{name}:input")
    }
    np.testing.assert_array_equal(taps["model"], ref(torch.from_numpy(example_input())).detach())
    # The activation works in place; what it was given is still what the last block gave.
    np.testing.assert_array_equal(taps["activation:input"], taps["blocks.2"])
    assert (taps["activation:input"] != taps["activation"]).any()


def test_trace_leaves_no_trace() -> None:
    """Also where the model raises: hooks are gone, classes have their own `__call__`."""
    ref, port = reference().float(), Net(jnp.float32, StillBroken)
    before = Gate.__call__, nnx.Conv.__call__, "__call__" in vars(StillBroken)
    with pytest.raises(TypeError, match="shape"):
        trace(port, example_input(np.float32).transpose(CHANNELS_LAST))
    with pytest.raises(RuntimeError):
        trace(ref, np.ones((1, 2, 3), np.float32))
    assert before == (Gate.__call__, nnx.Conv.__call__, "__call__" in vars(StillBroken))
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

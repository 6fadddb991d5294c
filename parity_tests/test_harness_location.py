"""What `locate` says: pairs found by themselves, where it begins, state, and what was left out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity_tests import LINEAR, Bridge, Location, Rule, locate
from parity_tests.small_pairs import (
    AB,
    TWO,
    Port,
    Torch,
    X,
    guilty,
    linear,
    located,
    pair,
)

pytestmark = pytest.mark.usefixtures("in_float64")


# Where a difference begins


def between(f: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda model, x: model.fc2(f(model.fc1(x)))


def both(x: Any) -> Any:
    return x


TANH_GELU = jax.nn.gelu


@pytest.mark.parametrize(
    ("of_torch", "of_port", "where"),
    [
        (
            between(torch.nn.functional.gelu),
            between(TANH_GELU),
            "inside it, between fc1 and fc2: fc2:input differs",
        ),
        (
            between(both),
            lambda m, x: m.fc2(m.fc1(x * 2)),
            "inside it, between its input and fc1: fc1:input differs",
        ),
        (between(both), lambda m, x: m.fc2(m.fc1(x)) ** 2, "inside it, after fc2"),
    ],
    ids=["between", "before", "after"],
)
def test_where_it_begins(of_torch: Any, of_port: Any, where: str) -> None:
    found = located(of_torch, of_port, TWO)
    assert guilty(found) == [("model", "forward")]
    assert found.where == where
    assert f"  {where}\n" in str(found)


def test_a_first_difference_is_told_where_it_is_news() -> None:
    ref, port = pair(between(both), between(both), TWO)
    port.fc1.bias[...] *= 2
    assert "first difference of a whole run" not in str(locate(ref, port, X, {"**": "**"}))
    found = located(between(torch.nn.functional.gelu), between(TANH_GELU), TWO)
    assert "  first difference of a whole run: fc2 (forward, cascaded): ratio " in str(found)


@pytest.mark.parametrize("plant", ["fc1", "backward"])
def test_where_is_silent_of_what_has_a_name_and_of_gradients(
    plant: str,
) -> None:
    ref, port = pair(between(both), between(both), TWO)
    if plant == "fc1":
        port.fc1.bias[...] *= 2
    else:
        port.function = between(jax.lax.stop_gradient)
    found = locate(ref, port, X, {"**": "**"}, bridge=AB)
    assert guilty(found) == [("fc1", "forward") if plant == "fc1" else ("model", "backward")]
    assert found.where == ""


@pytest.mark.parametrize("wrong_before", [False, True])
def test_where_it_begins_inside_a_layer(wrong_before: bool) -> None:
    """Unless the layer is given something else: then nothing is known of what is inside it."""
    inner = pair(between(torch.nn.functional.gelu), between(TANH_GELU), TWO)
    before = Torch(lambda m, x: x * 2), Port(lambda m, x: x * (2 + wrong_before))
    ref = Torch(lambda m, x: m.inner(m.before(x)), before=before[0], inner=inner[0])
    port = Port(lambda m, x: m.inner(m.before(x)), before=before[1], inner=inner[1])
    found = locate(ref, port, X, {"**": "**"})
    names = ["before", "inner"] if wrong_before else ["inner"]
    assert guilty(found) == [(name, "forward") for name in names]
    found = replace(found, checks=tuple(c for c in found.checks if c.name != "before"))
    begins = "inside it, between inner.fc1 and inner.fc2: inner.fc2:input differs"
    assert found.where == ("" if wrong_before else begins)


# The same as a whole


def test_a_layout_inside_is_no_fault() -> None:
    """Hidden units in another order: `inside` names the layers, and nobody is guilty."""
    order = jnp.array([2, 0, 3, 1])
    ref, port = pair(between(both), between(both), TWO)
    for name in ("kernel", "bias"):
        values = getattr(port.fc1, name)
        values[...] = values[...][..., order]
    port.fc2.kernel[...] = port.fc2.kernel[...][order]
    found = locate(ref, port, X, {"**": "**"})
    assert found.outcome == "same"
    assert not found.guilty
    assert {check.label for check in found.inside} == {"fc1", "fc2"}
    assert found.verdict == (
        "the same function, though it differs inside, at fc1, fc2: another layout, or a pair that "
        "is none"
    )
    assert "other" in str(found)
    assert "!" not in str(found)  # no figure that reads as an accusation
    port.fc2.bias[...] *= 2
    wrong = locate(ref, port, X, {"**": "**"})
    assert wrong.outcome == "differs"
    assert wrong.inside == ()


# State


def counting(factor: float, dtype: Any = None) -> Location:
    """A buffer that follows the mean of the inputs, and which nothing reads."""

    def forward(model: Any, x: Any) -> Any:
        model.fc1.mean = 0.9 * model.fc1.mean + 0.1 * x.mean(0)
        return model.fc1(x)

    def call(model: Any, x: Any) -> Any:
        new = factor * model.mean[...] + (1 - factor) * x.mean(0)
        model.mean.set_value(new.astype(dtype or new.dtype))
        return model.fc1(x)

    ref, port = pair(forward, call, TWO)
    ref.fc1.register_buffer("mean", torch.ones(3).double())
    port.mean = nnx.BatchStat(jnp.ones(3))
    bridge = Bridge(
        [
            Rule("fc1.mean", "mean"),
            Rule("{a}.weight", "{a}.kernel", LINEAR),
            Rule("{a}.bias", "{a}.bias"),
        ]
    )
    return locate(ref, port, X, {"fc1": "fc1"}, bridge=bridge)


def test_a_state_that_is_the_same() -> None:
    found = counting(0.9)
    assert found.outcome == "same"
    assert found.state is not None
    assert [tensor.name for tensor in found.state.tensors] == ["fc1.mean"]


@pytest.mark.parametrize("dtype", [None, jnp.float32], ids=["float64", "float32"])
def test_the_same_function_that_leaves_another_state(dtype: Any) -> None:
    """The value is compared whatever its dtype, and the dtype is said."""
    found = counting(0.1, dtype)
    assert found.outcome == "state differs"
    assert not found.ok
    assert not found.guilty
    assert found.verdict.startswith("same function, state differs: fc1.mean: ratio ")
    assert found.state is not None
    assert np.isfinite(found.state.ratio)
    narrow = ("fc1.mean: the port keeps it in float32",)
    assert found.not_compared == (() if dtype is None else narrow)


def test_a_statistic_in_float32_is_said_and_no_other_state() -> None:
    found = counting(0.9, jnp.float32)
    assert found.outcome == "same"
    assert found.state is None
    assert found.not_compared == ("fc1.mean: the port keeps it in float32; to that, it agrees",)


# float32 inside


@pytest.mark.parametrize("factor", [1, 2])
def test_float32_islands_are_named_where_a_float64_port_differs(factor: float) -> None:
    """A difference no larger than theirs is theirs; a larger one is none of their making."""

    def call(model: Any, x: jax.Array) -> jax.Array:
        return factor * jnp.tanh(model.fc1(x).astype(jnp.float32)).astype(x.dtype)

    found = located(lambda m, x: m.fc1(x).tanh(), call, TWO)
    assert found.outcome == ("not comparable" if factor == 1 else "differs")
    assert guilty(found) == ([] if factor == 1 else [("model", "forward")])
    (island,) = found.islands
    assert island.startswith("rounded to float32 in test_harness_location.py:")
    assert "lift_float32()" in str(found)


@pytest.mark.parametrize("rate", [0.5, 0.0])
def test_a_port_that_draws_random_numbers_of_a_fixed_key(rate: float) -> None:
    """At a rate of zero it draws all the same, for nothing."""

    def call(model: Any, x: jax.Array) -> jax.Array:
        kept = jax.random.uniform(jax.random.key(0), x.shape) >= 0.5
        return model.fc1(jnp.where(kept, x, 0.0) if rate else x) * (2 if not rate else 1)

    found = located(lambda m, x: m.fc1(x), call, TWO)
    if not rate:
        assert (found.outcome, found.draws) == ("differs", ())
        return
    assert found.outcome == "not comparable"
    assert found.verdict.startswith("not comparable: the port draws random numbers (below), and")
    (line,) = found.draws
    assert line.startswith("test_harness_location.py:")
    assert f"    {line}\n" in str(found)


def test_where_there_is_no_float32_there_are_no_islands() -> None:
    assert located(between(both), lambda m, x: m.fc2(m.fc1(x)) * 2, TWO).islands == ()


# What is not compared


def test_each_kind_of_what_is_left_out_is_said_once() -> None:
    """Six layers without a twin, three that run another number of times: two sentences."""

    class Deep(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(3))
            self.acts = torch.nn.ModuleList(torch.nn.Tanh() for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block, act in zip(self.blocks, self.acts, strict=True):
                x = act(block(x))
            return x

    def call(model: Any, x: jax.Array) -> jax.Array:
        for block in model.blocks:
            y = block(x)
            x = jnp.tanh(block(x) + 0 * y)
        return x

    ref = Deep().double()
    port = AB.to_port(ref, Port(call, blocks=nnx.List([linear(3, 3) for _ in range(3)])))
    found = locate(ref, port, X, {"blocks.{i}": "blocks.{i}"}, bridge=AB)
    assert found.outcome == "same"
    assert found.not_compared == (
        "called once by the reference, twice by the port: blocks.* (3)",
        "without a twin in the reference's names: acts.* (3)",
    )
    assert "not compared: 2 (see below)" in found.verdict
    for sentence in found.not_compared:
        assert f"    {sentence}\n" in str(found)


def test_where_no_layer_can_be_held_against_its_twin() -> None:
    """The port's layer gets another array that nobody knows: it is not comparable, not guilty."""

    def forward(model: Any, x: Any) -> Any:
        return model.mix(model.fc1(x), (x[:, :1] > 0).double())

    def call(model: Any, x: Any) -> Any:
        return model.mix(model.fc1(x), x[:, :1] <= 0)

    ref, port = pair(forward, call, TWO)
    ref.mix, port.mix = Torch(lambda m, x, seen: x * seen), Port(lambda m, x, hid: x * hid)
    found = locate(ref, port, X, {"mix": "mix"}, bridge=AB)
    assert found.outcome == "not comparable"
    assert guilty(found) == [("model", "forward")]
    assert found.verdict.startswith(
        "not comparable: the models differ, at model (forward, isolated): ratio "
    )
    assert (
        "mix alone: its [2×1] bool in the port is not known to be the reference's; "
        "see Twin(inputs=...)"
    ) in found.not_compared


def test_a_port_without_a_way_back_is_said_to_have_none() -> None:
    def tanh_of_numpy(m: Any, x: jax.Array) -> jax.Array:
        y = m.fc(x)
        return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(y.shape, y.dtype), y)

    found = located(lambda m, x: torch.tanh(m.fc(x)), tanh_of_numpy)
    assert guilty(found) == [("model", "backward")]
    says = "model (backward, isolated): the port raises ValueError: Pure callbacks do not support"
    assert says in found.verdict
    assert "ratio inf" not in str(found)
    assert str(found).count("Pure callbacks") == 1

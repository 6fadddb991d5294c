"""Calls as they are: `Twin(inputs=, output=, call=)`, `output=`, dict inputs, `port_inputs`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity_tests import LINEAR, Bridge, Location, Rule, Twin, locate
from parity_tests.harness.stacked import in_stack
from parity_tests.small_pairs import (
    AB,
    FC,
    Port,
    Torch,
    X,
    guilty,
    linear,
    located,
    pair,
)

pytestmark = pytest.mark.usefixtures("in_float64")


# Twin(inputs=...): the reference's layer scales and shifts, the port's takes one packed array


def right(x: jax.Array, packed: jax.Array) -> jax.Array:
    return x * packed[0] + packed[1]


def shift_forgotten(x: jax.Array, packed: jax.Array) -> jax.Array:
    return x * packed[0]


def scale_held_fast(x: jax.Array, packed: jax.Array) -> jax.Array:
    return x * jax.lax.stop_gradient(packed[0]) + packed[1]


def packed_arguments(x: Any, scale: Any, shift: Any) -> Any:
    return x, jnp.stack([scale, shift])


def packed_keywords(x: Any, scale: Any, shift: Any) -> Any:
    return (x,), {"packed": jnp.stack([scale, shift])}


def adapted(film: Any, inputs: Any, order: int = 1) -> Location:
    def forward(model: Any, x: Any) -> Any:
        y = model.fc(x)
        return model.film(y, y.tanh(), y * 2)

    def call(model: Any, x: Any) -> Any:
        y = model.fc(x)
        return model.film(y, packed=jnp.stack([jnp.tanh(y), y * 2])[::order])

    ref, port = pair(forward, call)
    ref.film = Torch(lambda m, x, scale, shift: x * scale + shift)
    port.film = Port(lambda m, x, packed: film(x, packed))
    names = {"fc": "fc", "film": Twin("film", inputs=inputs)}
    return locate(ref, port, X, names, bridge=AB)


@pytest.mark.parametrize("inputs", [packed_arguments, packed_keywords])
@pytest.mark.parametrize(
    ("film", "order", "named"),
    [
        (right, 1, []),
        (shift_forgotten, 1, [("film", "forward")]),
        (scale_held_fast, 1, [("film", "backward")]),
        (right, -1, [("model", "forward")]),  # the model packs them in the wrong order
    ],
    ids=["right", "forward", "backward", "caller"],
)
def test_arguments_made_of_the_references(inputs: Any, film: Any, order: int, named: Any) -> None:
    found = adapted(film, inputs, order)
    assert guilty(found) == named, found
    modes = {(c.direction, c.mode) for c in found.checks if c.label == "film"}
    assert {("forward", "isolated"), ("backward", "isolated")} <= modes
    assert not found.not_compared


def test_what_an_adapter_changes_is_another_array() -> None:
    """The port halves what it gives the layer, which doubles it: no two inputs to compare."""
    ref, port = pair(lambda m, x: m.inner(m.fc(x)), lambda m, x: m.inner(m.fc(x) / 2))
    ref.inner, port.inner = Torch(lambda m, y: y.tanh()), Port(lambda m, y: jnp.tanh(2 * y))
    names = {"fc": "fc", "inner": Twin("inner", inputs=lambda y: y / 2)}
    found = locate(ref, port, X, names, bridge=AB)
    assert all(check.ok for check in found.checks), found
    assert "inputs" not in {check.mode for check in found.checks if check.label == "inner"}


# Twin(output=...)


@dataclass
class Both:
    y: Any
    weights: Any


FORMS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any], Any], Any]] = {
    "index": (lambda y, w: (w, y), lambda found: found[1], 1),
    "key": (lambda y, w: {"w": w, "y": y}, lambda found: found["y"], "y"),
    "attribute": (Both, lambda found: found.y, "y"),
    "function": (lambda y, w: (y / 3, w), lambda found: found[0] * 3, lambda found: found[0] * 3),
}


def tanh(y: jax.Array) -> jax.Array:
    return jnp.tanh(y)


def doubled_gradient(y: jax.Array) -> jax.Array:
    return 2 * jnp.tanh(y) - jax.lax.stop_gradient(jnp.tanh(y))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("f", "named"),
    [
        (tanh, []),
        (jnp.sin, [("inner", "forward")]),
        (doubled_gradient, [("inner", "backward")]),
    ],
)
def test_results_made_of_the_ports(form: str, f: Any, named: Any) -> None:
    together, pick, output = FORMS[form]
    ref, port = pair(lambda m, x: m.inner(m.fc(x)) * 2, lambda m, x: pick(m.inner(m.fc(x))) * 2)
    ref.inner = Torch(lambda m, y: y.tanh())
    port.inner = Port(lambda m, y: together(f(y), y.sum()))
    names = {"fc": "fc", "inner": Twin("inner", output=output)}
    found = locate(ref, port, X, names, bridge=AB)
    assert guilty(found) == named, found
    assert {(c.direction, c.mode) for c in found.checks if c.label == "inner"} == {
        ("forward", "inputs"),
        ("forward", "cascaded"),
        ("forward", "isolated"),
        ("backward", "cascaded"),
        ("backward", "isolated"),
    }
    assert not found.not_compared


def test_a_part_that_a_result_does_not_have() -> None:
    for output in ("z", 2):
        names = {"fc": Twin("fc", output=output)}
        with pytest.raises(ValueError, match=f"output={output!r}: a result is a "):
            located(lambda m, x: m.fc(x), lambda m, x: m.fc(x), names=names)
    with pytest.raises(ValueError, match="output='z': a result is a dict with y, w"):
        located(labelled(1), labelled(1), output="z")


# Twin(call=...): one layer of the port that runs for several of the reference's


class Block(nnx.Module):
    f: Any = staticmethod(jnp.tanh)

    def __init__(self) -> None:
        self.fc = linear(3, 3)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.f(self.fc(x))


class SineBlock(Block):
    f = staticmethod(jnp.sin)


class Scanned(nnx.Module):
    def __init__(self) -> None:
        self.blocks = nnx.vmap(lambda _: Block(), in_axes=0, out_axes=0)(jnp.arange(3))

    def __call__(self, x: jax.Array) -> jax.Array:
        step = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return step(x, self.blocks)


class Blocks(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        forward = lambda m, x: m.fc(x).tanh()  # noqa: E731
        self.blocks = torch.nn.ModuleList(
            Torch(forward, fc=torch.nn.Linear(3, 3)) for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


STACKED: dict[str, Any] = {"over": {"i": range(3)}, "at": lambda i: (i,)}
OF_STACK = Bridge(
    [
        Rule("blocks.{i}.fc.weight", "blocks.fc.kernel", LINEAR, **STACKED),
        Rule("blocks.{i}.fc.bias", "blocks.fc.bias", **STACKED),
    ]
)
OF_CALLS = {
    "blocks.{i}": Twin("blocks", call="{i}"),
    "blocks.{i}.fc": Twin("blocks.fc", call="{i}"),
}


def scanned(change: Callable[[Any], None], names: Any = OF_CALLS) -> Location:
    torch.manual_seed(0)
    ref = Blocks().double()
    port = OF_STACK.to_port(ref, Scanned())
    change(port)
    return locate(ref, port, X, names, bridge=OF_STACK)


def one_bias(port: Any) -> None:
    bias = port.blocks.fc.bias
    bias[...] = bias[...].at[1].multiply(2)


def other_blocks(port: Any) -> None:
    port.blocks.__class__ = SineBlock


class OfAnotherGradient(nnx.Linear):
    """The same function; its kernel's gradient is twice what it should be."""

    def __call__(self, x: jax.Array, *_: Any) -> jax.Array:
        kernel = self.kernel[...]
        assert self.bias is not None
        return x @ (2 * kernel - jax.lax.stop_gradient(kernel)) + self.bias[...]


def other_gradients(port: Any) -> None:
    port.blocks.fc.__class__ = OfAnotherGradient


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda port: None, []),
        (one_bias, [("blocks.1.fc", "forward")]),
        (other_blocks, [(f"blocks.{i}", "forward") for i in range(3)]),
        (other_gradients, [(f"blocks.{i}.fc", "backward") for i in (2, 1, 0)]),
    ],
    ids=["right", "one bias", "every block", "every kernel's gradient"],
)
def test_calls_of_a_scanned_layer_stand_for_layers(change: Any, named: Any) -> None:
    found = scanned(change)
    assert guilty(found) == named, found
    assert found.not_compared == ()


def test_the_row_of_stacked_weights_that_a_call_had() -> None:
    """That which holds the same; the call's number, if several do; none that is no row of it."""
    stack = {"w": np.array([[1.0, 2], [3, 4], [1, 2]]), "one": np.zeros(2)}
    gradients = {"w": np.ones(2), "one": np.ones(2)}
    for values, count, row in (([3.0, 4.0], 0, 1), ([1.0, 2.0], 2, 2), ([1.0, 2.0], 1, None)):
        found = in_stack(gradients, {"w": np.array(values), "one": stack["one"]}, stack, count)
        if row is None:
            assert found is None
            continue
        assert found is not None
        np.testing.assert_array_equal(found["w"], np.eye(3)[row][:, None] * np.ones(2))
        np.testing.assert_array_equal(found["one"], gradients["one"])
    assert in_stack(gradients, {"w": np.array([9.0, 9.0])}, stack, 0) is None


def test_a_call_that_the_port_does_not_make() -> None:
    found = scanned(lambda port: None, {"blocks.2.fc": Twin("blocks.fc", call=3)})
    assert "not called so often in the port as `call` says: blocks.2.fc" in found.not_compared
    assert found.outcome == "same"


# The models' own arguments and results


def labelled(factor: float) -> Callable[[Any, Any], Any]:
    return lambda model, x: {"y": model.fc(x), "w": x * factor}


@pytest.mark.parametrize("output", ["y", lambda found: found["y"], None])
def test_what_is_compared_of_the_models_results(output: Any) -> None:
    found = located(labelled(1), labelled(2), output=output)
    assert found.outcome == ("differs" if output is None else "same")


def test_one_result_in_another_form() -> None:
    names = {"": Twin("", output=lambda found: found[1] * 2), "fc": "fc"}
    found = located(lambda m, x: m.fc(x), lambda m, x: (x, m.fc(x) / 2), names=names)
    assert found.outcome == "same"
    with pytest.raises(ValueError, match="`output` must be a part of the reference's result"):
        located(labelled(1), labelled(1), output=lambda found: found["y"] * 2)


def gated(model: Any, a: Any, b: Any) -> Any:
    return model.fc(a) * b


def gated_the_other_way(model: Any, b: Any, a: Any) -> Any:
    return model.fc(a) * b


def transposed(model: Any, a: Any, b: Any) -> Any:
    return gated(model, a.T, b)


A, B = X, X[:, :1]


@pytest.mark.parametrize(
    ("port", "inputs", "port_inputs"),
    [
        (gated, (A, B), None),
        (gated_the_other_way, {"a": A, "b": B}, None),
        (gated_the_other_way, {"b": B, "a": A}, (B, A)),
        (lambda m, both: gated(m, both["a"], both["b"]), (A, B), {"both": {"a": A, "b": B}}),
        (transposed, (A, B), (A.T, B)),
    ],
    ids=["positions", "keywords", "positions of the port", "one dict", "transposed"],
)
def test_inputs_of_each_side(port: Any, inputs: Any, port_inputs: Any) -> None:
    found = located(gated, port, FC, {"fc": "fc"}, inputs, port_inputs=port_inputs)
    assert found.outcome == "same", found
    assert not found.not_compared
    gradients = {
        tensor.name
        for check in found.checks
        for tensor in check.report.tensors
        if not check.name and check.direction == "backward" and check.mode == "isolated"
    }
    # A transposed array is not known to be the same: it has no gradient to compare.
    inputs = {"model:input", "model:input[1]"} if port is not transposed else {"model:input"}
    assert gradients == {"fc.weight", "fc.bias"} | inputs


def test_narrower_inputs_become_float64() -> None:
    for dtype in (np.float32, jnp.bfloat16):
        found = located(lambda m, x: m.fc(x), lambda m, x: m.fc(x), inputs=X.astype(dtype))
        assert found.outcome == "same", found
    found = located(lambda m, x: m.fc(x), lambda m, x: m.fc(x), inputs=torch.from_numpy(X).float())
    assert found.outcome == "same", found


def test_the_models_arguments_are_no_affair_of_a_twin() -> None:
    names = {"": Twin("", inputs=lambda x: x)}
    with pytest.raises(ValueError, match="given by `port_inputs`"):
        located(lambda m, x: m.fc(x), lambda m, x: m.fc(x), names=names)

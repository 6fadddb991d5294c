"""Ready-made maps: each gives back what it was given, and its gradient is the adjoint."""

from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import nn

from parity_tests.harness.bridge import Bridge, BridgeError, Rule
from parity_tests.harness.layouts import (
    CONV1D,
    CONV2D,
    CONV3D,
    CONV_TRANSPOSE1D,
    CONV_TRANSPOSE2D,
    CONV_TRANSPOSE3D,
    LINEAR,
    flip_groups,
    trailing_ones,
)
from parity_tests.harness.maps import (
    Map,
    add,
    as_map,
    as_tuple,
    chain,
    constant,
    flip,
    heads,
    inverse,
    merge,
    permute_rows,
    plus_constant,
    split,
    weight_norm,
)
from parity_tests.harness.recurrent_rules import _gru_biases

# name -> map, shapes of the reference's tensors, shapes of the port's
MAPS: dict[str, tuple[Any, list[tuple[int, ...]], list[tuple[int, ...]]]] = {
    "linear": (LINEAR, [(5, 3)], [(3, 5)]),
    "conv1d": (CONV1D, [(5, 3, 2)], [(2, 3, 5)]),
    "conv2d": (CONV2D, [(5, 3, 2, 4)], [(2, 4, 3, 5)]),
    "conv3d": (CONV3D, [(5, 3, 2, 4, 7)], [(2, 4, 7, 3, 5)]),
    "conv transpose 1d": (CONV_TRANSPOSE1D, [(3, 5, 2)], [(2, 3, 5)]),
    "conv transpose 2d": (CONV_TRANSPOSE2D, [(3, 5, 2, 4)], [(2, 4, 3, 5)]),
    "conv transpose 3d": (CONV_TRANSPOSE3D, [(3, 5, 2, 4, 7)], [(2, 4, 7, 3, 5)]),
    "conv transpose in groups": (flip_groups(2), [(6, 5, 3)], [(10, 3, 3)]),
    "heads, in": (heads(2, 3), [(6, 5)], [(5, 2, 3)]),
    "heads, bias": (heads(2, 3), [(6,)], [(2, 3)]),
    "heads, out": (heads(2, 3, axis=1), [(5, 6)], [(2, 3, 5)]),
    "flip": (flip(0, 2), [(2, 3, 4)], [(2, 3, 4)]),
    "rows": (permute_rows([2, 0, 3, 1]), [(4, 3)], [(4, 3)]),
    "columns, transposed": (chain(permute_rows([2, 0, 1], axis=1), LINEAR), [(4, 3)], [(3, 4)]),
    "packed to three": (chain(split(3), heads(2, 3)), [(18, 5)], [(5, 2, 3)] * 3),
    "sizes": (split([2, 3], axis=1), [(4, 5)], [(4, 2), (4, 3)]),
    "merged": (chain(merge(2), LINEAR), [(4, 3), (4, 3)], [(3, 8)]),
    "merged sizes": (merge([4, 1]), [(4, 3), (1, 3)], [(5, 3)]),
    "inverse": (inverse(heads(2, 3)), [(5, 2, 3)], [(6, 5)]),
    "ones": (trailing_ones(2), [(3,)], [(3, 1, 1)]),
    "1 + w": (plus_constant(1.0), [(3, 2)], [(3, 2)]),
    "added": (add(), [(3, 2), (3, 2)], [(3, 2)]),
    "weight norm": (chain(weight_norm(), LINEAR), [(5, 1), (5, 3)], [(3, 5)]),
    "weight norm of all": (weight_norm(None), [(), (5, 3)], [(5, 3)]),
    "gru biases": (_gru_biases(2, apart=True), [(6,), (6,)], [(2,)] * 4),
    "gru biases, joined": (_gru_biases(2, apart=False), [(6,), (6,)], [(6,), (2,)]),
    "constant": (constant(np.ones(3)), [], [(3,)]),
}  # fmt: skip
LOSSY = {"added", "weight norm", "weight norm of all", "gru biases", "gru biases, joined"}
ROUNDED = {"1 + w"}


@pytest.mark.parametrize("name", MAPS)
def test_there_and_back(name: str) -> None:
    """Bit for bit; what loses something says so, and what comes back makes the same port."""
    step, given, there = _drawn(name)
    assert [x.shape for x in there] == MAPS[name][2]
    assert step.to_reference is not None
    back = as_tuple(step.to_reference(*there))
    if name in LOSSY:
        assert step.loses
        given, back = there, as_tuple(step.to_port(*back))
    else:
        assert not step.loses
    for a, b in zip(given, back, strict=True):
        assert a.shape == b.shape
        if name in ROUNDED | LOSSY:
            np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-15)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", MAPS)
def test_the_gradient_is_the_adjoint(name: str) -> None:
    """<to_port'(x) t, y> = <t, gradient(y)> for a random t, by JAX's forward derivative."""
    step, given, there = _drawn(name)
    rng = np.random.default_rng(1)
    directions = tuple(np.asarray(rng.normal(size=x.shape)) for x in given)
    cotangents = [rng.normal(size=x.shape) for x in there]
    with jax.enable_x64(True):
        _, tangents = jax.jvp(lambda *xs: as_tuple(step.to_port(*xs)), given, directions)
        bridge, names = _bridge(name, step)
        state = dict(zip(names[0], given, strict=True))
        gradients = bridge.map_gradients(dict(zip(names[1], cotangents, strict=True)), state)
    forward = sum(
        float(np.sum(np.asarray(t) * c)) for t, c in zip(tangents, cotangents, strict=True)
    )
    pairs = zip(directions, names[0], strict=True)
    backward = sum(float(np.sum(d * gradients[name])) for d, name in pairs)
    if name == "constant":
        assert gradients == {}
    assert forward == pytest.approx(backward, rel=1e-12, abs=1e-12)


def _drawn(name: str) -> tuple[Map, tuple[Any, ...], tuple[Any, ...]]:
    axes, shapes, _ = MAPS[name]
    step = as_map(axes)
    rng = np.random.default_rng(0)
    given = tuple(np.asarray(rng.normal(size=shape)) for shape in shapes)
    return step, given, as_tuple(step.to_port(*given))


def _bridge(name: str, step: Map) -> tuple[Bridge, tuple[list[str], list[str]]]:
    ours = [f"r{i}" for i in range(len(MAPS[name][1]))]
    theirs = [f"p{i}" for i in range(len(MAPS[name][2]))]
    return Bridge([Rule(ours, theirs, step)]), (ours, theirs)


def test_a_map_whose_derivative_depends_on_the_weights_asks_for_them() -> None:
    bridge = Bridge([Rule(("g", "v"), "kernel", weight_norm())])
    with pytest.raises(BridgeError, match="depends on the weights: give the reference as well"):
        bridge.map_gradients({"kernel": np.ones((3, 2))})


def test_a_function_of_ones_own_needs_no_gradient() -> None:
    """It is JAX's derivative: here 3 for each number, which `to_reference` would make a third."""
    rule = Rule("w", "k", to_port=lambda w: 3 * w.T, to_reference=lambda k: k.T / 3)
    gradients = Bridge([rule]).map_gradients({"k": np.ones((2, 4))})
    np.testing.assert_array_equal(gradients["w"], np.full((4, 2), 3.0))
    rule = Rule("w", "k", to_port=lambda w: np.concatenate([w, w]), to_reference=lambda k: k[:2])
    with pytest.raises(BridgeError, match="methods of arrays, or give `gradient`"):
        Bridge([rule]).map_gradients({"k": np.ones(4)})


@pytest.mark.parametrize("parametrized", [True, False], ids=["parametrizations", "old"])
@pytest.mark.parametrize("dim", [0, None])
def test_weight_norm_as_torch_computes_it(parametrized: bool, dim: Any) -> None:
    """Fused into a port that has none, with torch's own gradients of g and v."""
    of = nn.utils.parametrizations.weight_norm if parametrized else _old_weight_norm
    ref = of(nn.Linear(3, 4, bias=False).double(), dim=dim)
    names = ("weight_g", "weight_v")
    if parametrized:
        names = tuple(f"parametrizations.weight.original{i}" for i in range(2))
    with torch.no_grad():
        for p in ref.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    bridge = Bridge([Rule(names, "kernel", chain(weight_norm(dim), LINEAR))])
    with jax.enable_x64(True):
        port = bridge.to_port(ref, _kernel(np.zeros((3, 4))))
    x, c = np.random.default_rng(0).normal(size=(2, 3)), np.ones((2, 4))
    y = ref(torch.from_numpy(x))
    (y * torch.from_numpy(c)).sum().backward()
    np.testing.assert_allclose(y.detach(), x @ np.asarray(port.args[0]["kernel"]), rtol=1e-12)
    gradients = bridge.map_gradients({"kernel": x.T @ c}, ref)
    for name, p in ref.named_parameters():
        assert p.grad is not None
        np.testing.assert_allclose(gradients[name], p.grad, rtol=1e-10, atol=1e-14, err_msg=name)


def _old_weight_norm(layer: nn.Module, dim: Any) -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm` is deprecated"):
        return nn.utils.weight_norm(layer, dim=dim)


def _kernel(kernel: Any) -> Any:
    return jax.tree_util.Partial(lambda weights, x: x @ weights["kernel"], {"kernel": kernel})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: permute_rows([0, 2]), "not a permutation of 2 rows"),
        (lambda: permute_rows([1, 0]).to_port(np.ones(3)), "3 rows, and an order of 2"),
        (lambda: split(3).to_port(np.ones(4)), "4 rows do not split into 3 equal parts"),
        (lambda: split([1, 2]).to_port(np.ones(4)), r"4 rows are not 1 \+ 2"),
        (lambda: inverse(add()), "no inverse of a map that which of the summed"),
        (lambda: as_map(LINEAR).to_port(np.ones(2)), "2 axes to permute, and 1 given"),
    ],
)
def test_what_does_not_fit_a_map(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

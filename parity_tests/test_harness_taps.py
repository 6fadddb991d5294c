"""`tap`, `layers` and `trace` for every kind of model, and under JAX's transformations."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity_tests import LINEAR, Bridge, Location, Rule, Twin, layers, locate, tap, trace
from parity_tests.harness.marks import mark
from parity_tests.small_pairs import F64, Port, Torch, X, guilty, linear

pytestmark = pytest.mark.usefixtures("in_float64")


class Dense(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return flax.linen.Dense(4, param_dtype=F64)(x)


class SetUp(flax.linen.Module):
    def setup(self) -> None:
        self.fc = flax.linen.Dense(4, param_dtype=F64)

    def __call__(self, x: jax.Array) -> jax.Array:
        return tap("y", self.fc(x))


def bound(module: flax.linen.Module) -> Any:
    return module.bind(module.init(jax.random.key(0), X))


def equinox_linear() -> eqx.nn.Linear:
    return eqx.nn.Linear(3, 4, key=jax.random.key(0), dtype=F64)


class Rows(eqx.Module):
    fc: eqx.nn.Linear

    def __call__(self, x: jax.Array) -> jax.Array:
        return tap("y", jax.vmap(self.fc)(x))


def with_fc(model: Any, x: Any) -> Any:
    return tap("y", model.fc(x))


def function(params: Any, x: Any) -> Any:
    return tap("y", tap("fc", x @ params["w"]))


def rows(params: Any, x: Any) -> Any:
    return tap("y", jax.vmap(params["fc"])(x))


# The model, its layers before a call, and the names that a call has.
KINDS: dict[str, tuple[Callable[[], Any], set[str], set[str]]] = {
    "torch": (lambda: Torch(with_fc, fc=torch.nn.Linear(3, 4).double()), {"fc"}, {"fc", "y"}),
    "NNX": (lambda: Port(with_fc, fc=linear(3, 4)), {"fc"}, {"fc", "y"}),
    "Linen": (lambda: bound(SetUp()), set(), {"fc", "y"}),
    "Linen, compact": (lambda: bound(Dense()), set(), {"Dense_0"}),
    "Equinox": (lambda: Rows(equinox_linear()), {"fc"}, {"fc", "y"}),
    "function": (lambda: partial(function, {"w": jnp.ones((3, 4))}), set(), {"fc", "y"}),
    "function of Equinox's": (lambda: partial(rows, {"fc": equinox_linear()}), {"fc"}, {"fc", "y"}),
    "bare function": (lambda: lambda x: tap("y", x + 1), set(), {"y"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_taps_of_every_kind(kind: str) -> None:
    make, known, called = KINDS[kind]
    model = make()
    assert layers(model).keys() == {""} | known
    taps = trace(model, X)
    assert {name for name in taps if not name.endswith(":input")} == {"model"} | called
    inputs = {name.removesuffix(":input") for name in taps if name.endswith(":input")}
    assert inputs == {"model"} | called - {"y"} - ({"fc"} if kind == "function" else set())
    np.testing.assert_array_equal(taps["model:input"], X)
    if "y" in called:
        np.testing.assert_array_equal(taps["y"], taps["model"])
    assert trace(model, X, {"mine": "model"}).keys() == {"mine", "mine:input"}


def test_a_tap_without_a_listener_is_what_it_is_given() -> None:
    tree = {"a": [1, "two"]}
    assert tap("y", tree) is tree
    compiled = jax.jit(lambda x: tap("y", x) * 2)
    np.testing.assert_array_equal(compiled(X), X * 2)
    assert "parity" not in str(jax.make_jaxpr(lambda x: tap("y", x) * 2)(X))


def test_taps_follow_the_layer_they_are_in() -> None:
    inner = partial(lambda m, x: tap("scores", x.T @ x) @ x.T)
    for make in (Torch, Port):
        outer = make(lambda m, x: m.inner(tap("first", x)), inner=make(inner))
        found = {name for name in trace(outer, X) if not name.endswith(":input")}
        assert found == {"first", "inner", "inner.scores", "model"}


class Silent(nnx.Module):
    def __init__(self) -> None:
        self.fc = linear(3, 4)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.fc.kernel[...]


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (Silent, ValueError, r"no layer of this Silent \(nnx\) is called"),
        (lambda: 3, TypeError, "a int is no model: give a torch, NNX, bound Linen or Equinox"),
        (Dense, TypeError, r"give module\.bind\(variables\)"),
    ],
)
def test_what_cannot_be_traced(model: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        trace(model(), X)


# JAX's transformations

W = {"w": jnp.ones((3, 3))}


def step(params: Any, x: Any) -> Any:
    return tap("y", x @ params["w"])


TRANSFORMED: dict[str, tuple[Callable[[Any, Any], Any], list[tuple[int, ...]]]] = {
    "jax.jit": (jax.jit(step), [(2, 3)]),
    "jax.checkpoint": (jax.checkpoint(step), [(2, 3)]),
    "jax.vmap": (lambda p, x: jax.vmap(partial(step, p))(x), [(2, 3)]),
    "jax.vmap of the second axis": (
        lambda p, x: jax.vmap(partial(step, p), 1, 1)(jnp.stack([x, x, x], 1)),
        [(3, 2, 3)],  # mapped axes first
    ),
    "jax.vmap, twice": (
        lambda p, x: jax.vmap(jax.vmap(partial(step, p)))(jnp.stack([x, x, x])),
        [(3, 2, 3)],
    ),
    "lax.cond": (
        lambda p, x: jax.lax.cond(x.sum() > -9, step, lambda p, x: x, p, x),
        [(2, 3)],
    ),
    "the other branch": (
        lambda p, x: jax.lax.cond(x.sum() < -9, step, lambda p, x: tap("no", x), p, x),
        [],
    ),
    "lax.scan": (
        lambda p, x: jax.lax.scan(lambda x, _: (step(p, x), None), x, length=3)[0],
        [(2, 3)] * 3,
    ),
    "fori_loop": (lambda p, x: jax.lax.fori_loop(0, 3, lambda i, x: step(p, x), x), [(2, 3)] * 3),
    "jax.eval_shape": (lambda p, x: (jax.eval_shape(step, p, x), x)[1], []),
    "jax.grad": (jax.grad(lambda p, x: step(p, x).sum()), [(2, 3)]),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_what_runs_under_a_transformation_is_met(name: str) -> None:
    transformed, shapes = TRANSFORMED[name]
    taps = trace(partial(transformed, W), X)
    found = [value.shape for label, value in taps.items() if label.partition("#")[0] == "y"]
    assert found == shapes
    if shapes and name != "jax.grad":
        first = taps["y"].reshape(-1, 3)[:1]
        np.testing.assert_allclose(first, X[:1] @ np.ones((3, 3)), rtol=1e-14)


class Heard:
    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.cotangents: dict[int, Any] = {}

    def passed(self, arrays: Any, levels: Any) -> None:
        self.shapes += [x.shape for x in arrays]

    def returned(self, index: int, cotangent: Any) -> None:
        self.cotangents[index] = np.asarray(cotangent)


def marked(f: Callable[[Any, Any, Any], Any]) -> Heard:
    """d/dx of the sum of `f`, which marks with a listener and a variable."""
    heard = Heard()
    with jax.disable_jit():
        jax.grad(lambda x, v: f(x, heard, v).sum(), argnums=(0, 1))(jnp.asarray(X), jnp.zeros(()))
    return heard


def doubled(x: Any, heard: Any, variable: Any) -> Any:
    (x,) = mark([x], heard, variable)
    return 2 * x


MARKED: dict[str, Callable[[Any, Any, Any], Any]] = {
    "as it is": doubled,
    "jax.vmap": lambda x, h, v: jax.vmap(lambda x: doubled(x, h, v))(x),
    "jax.checkpoint": lambda x, h, v: jax.checkpoint(lambda x, v: doubled(x, h, v))(x, v),
    "lax.cond": lambda x, h, v: jax.lax.cond(x.sum() > -9, lambda: doubled(x, h, v), lambda: x),
    "behind stop_gradient": lambda x, h, v: doubled(jax.lax.stop_gradient(x), h, v),
}


@pytest.mark.parametrize("name", MARKED)
def test_cotangents_come_to_a_mark(name: str) -> None:
    heard = marked(MARKED[name])
    assert set(heard.shapes) == {X.shape}
    np.testing.assert_array_equal(heard.cotangents[0], np.full(X.shape, 2.0))


def test_a_mark_changes_no_derivative() -> None:
    def f(x: Any, with_mark: bool) -> Any:
        y = jnp.sin(x)
        if with_mark:
            (y,) = mark([y], Heard())
        return (y**3).sum()

    x = jnp.asarray(X[0])
    with jax.disable_jit():
        for transform in (jax.grad, jax.jacfwd, jax.hessian):
            np.testing.assert_allclose(
                transform(partial(f, with_mark=True))(x), transform(partial(f, with_mark=False))(x)
            )


# Stretches: a tap alone is the program since the taps before it


class Tapped(torch.nn.Module):
    """Taps on both sides; layers on neither but for `fc`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = tap("sum", self.fc(x))
        y = tap("act", y.tanh())
        return tap("out", (y * y).cumsum(-1))


def tapped(
    params: Any, x: Any, act: Any = jnp.tanh, out: Any = lambda y: jnp.cumsum(y * y, -1)
) -> Any:
    y = tap("sum", x @ params["w"] + params["b"])
    y = tap("act", act(y))
    return tap("out", out(y))


OF_FC = Bridge([Rule("fc.weight", "w", LINEAR), Rule("fc.bias", "b")])


def stretches(names: Any, under: Callable[[Any], Any] = lambda f: f, **faults: Any) -> Location:
    torch.manual_seed(0)
    ref = Tapped().double()
    call = under(partial(tapped, **faults))
    port = partial(call, {"w": jnp.zeros((3, 3)), "b": jnp.zeros(3)})
    port = OF_FC.to_port(ref, port)
    return locate(ref, port, X, names, bridge=OF_FC)


@pytest.mark.parametrize(
    ("faults", "named"),
    [
        ({}, []),
        ({"act": jnp.sin}, [("act", "forward")]),
        ({"act": lambda y: jnp.tanh(jax.lax.stop_gradient(y))}, [("act", "backward")]),
        ({"out": lambda y: jnp.cumsum(y, -1)}, [("out", "forward")]),
        (
            {"act": jnp.sin, "out": lambda y: jnp.cumsum(y, -1)},
            [("act", "forward"), ("out", "forward")],
        ),
    ],
    ids=["right", "forward", "backward", "last", "two"],
)
def test_the_stretch_between_two_taps_is_named(faults: Any, named: Any) -> None:
    found = stretches(TAPS, **faults)
    assert guilty(found) == named, found
    assert found.outcome == ("differs" if named else "same")


TAPS = {"sum": "sum", "act": "act", "out": "out"}


def test_taps_stand_for_layers_and_for_taps_in_another_form() -> None:
    """A layer of torch against a tap; a tap under jax.vmap, and one in another form: not alone."""
    assert stretches({**TAPS, "fc": "sum"}).outcome == "same"
    found = stretches({**TAPS, "act": Twin("act", output=lambda y: y * 1)})
    assert found.outcome == "same"
    assert (
        "act alone: what it stands for in the port is a tap, in another form"
    ) in found.not_compared
    found = stretches(TAPS, lambda f: lambda params, x: jax.vmap(partial(f, params))(x))
    assert found.outcome == "same"
    assert (
        "sum, act, out alone: a tap inside jax.vmap, where no value can be put in"
        in found.not_compared
    )

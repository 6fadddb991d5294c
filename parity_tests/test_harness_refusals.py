"""What `locate` refuses, each in one sentence: models that draw, functions around them, none."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx

from parity_tests import locate
from parity_tests.small_pairs import AB, F64, FC, Port, Torch, X, linear, pair

pytestmark = pytest.mark.usefixtures("in_float64")


def fc(model: Any, x: Any) -> Any:
    return model.fc(x)


class Dropping(flax.linen.Module):
    at_rest: bool = False

    @flax.linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return flax.linen.Dropout(0.5)(x, self.at_rest)


def dropping_equinox() -> Any:
    linear = eqx.nn.Linear(3, 3, key=jax.random.key(0), dtype=F64)
    return eqx.nn.Sequential([linear, eqx.nn.Dropout(0.5)])


class Normalizing(flax.linen.Module):
    """Changes its statistics; with `drop` it wants random numbers too."""

    drop: bool = False

    @flax.linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = flax.linen.BatchNorm(False, param_dtype=F64)(x)
        return flax.linen.Dropout(0.5, deterministic=False)(x) if self.drop else x


def normalizing(drop: bool, **bound: Any) -> Any:
    return Normalizing(drop).bind(Normalizing().init(jax.random.key(0), X), **bound)


def with_own_generator(of_the_module: bool) -> Any:
    generator = torch.Generator()
    ref: Any = Torch(lambda m, x: m.fc(x) * torch.rand(1, generator=getattr(m, "g", generator)))
    ref.fc = torch.nn.Linear(3, 4)
    if of_the_module:  # copied with it, state and all: every run draws the same
        ref.g = generator
    return ref.double()


def nnx_layer() -> Any:
    return Port(lambda m, x: m.fc(x), fc=linear(3, 4))


def functional(model: Any, x: Any) -> Any:
    return torch.nn.functional.dropout(model.fc(x))


SAME = torch.nn.Identity
REFUSALS: dict[str, tuple[Callable[[], Any], Callable[[], Any], type[Exception], str]] = {
    "X12 torch": (
        lambda: torch.nn.Sequential(SAME(), torch.nn.Dropout(0.5)),
        lambda: jnp.asarray,
        ValueError,
        "dropout is active in 1 of the reference",
    ),
    "X12 a torch layer with a rate of its own": (
        lambda: torch.nn.MultiheadAttention(4, 2, dropout=0.1),
        lambda: jnp.asarray,
        ValueError,
        "dropout is active in MultiheadAttention of the reference",
    ),
    "X12 a function of torch": (
        lambda: Torch(functional, fc=torch.nn.Linear(3, 4)).double(),
        lambda: jnp.asarray,
        ValueError,
        "the reference draws random numbers, first in model",
    ),
    "X12 a generator of its own": (
        lambda: with_own_generator(of_the_module=True),
        nnx_layer,
        ValueError,
        "the reference draws random numbers, from the torch.Generator g: call",
    ),
    "X12 a generator from elsewhere": (
        lambda: with_own_generator(of_the_module=False),
        nnx_layer,
        ValueError,
        "the reference draws random numbers, first in model",
    ),
    "X12 Linen, without random numbers": (
        SAME,
        lambda: normalizing(True, mutable=["batch_stats"]),
        ValueError,
        "^the port asks for random numbers that it was not given, as dropout does: call it with "
        "deterministic=True, or make the rate 0$",
    ),
    "X16 Linen that trains, with variables that cannot change": (
        SAME,
        lambda: normalizing(False),
        ValueError,
        r"give module\.bind\(variables, mutable=\['batch_stats'\]\), or evaluate$",
    ),
    "X12 NNX": (
        SAME,
        lambda: Port(lambda m, x: m.drop(x), drop=nnx.Dropout(0.5, rngs=nnx.Rngs(0))),
        ValueError,
        r"the port draws random numbers \(from drop\.",
    ),
    "X12 Linen": (
        SAME,
        lambda: Dropping().bind({}, rngs={"dropout": jax.random.key(0)}),
        ValueError,
        "dropout is active in Dropout_0 of the port",
    ),
    "X12 Equinox": (
        SAME,
        dropping_equinox,
        ValueError,
        r"dropout is active in layers\.1 of the port",
    ),
    "X17 a function around a model": (
        SAME,
        lambda: jax.vmap(dropping_equinox()),
        TypeError,
        "a function around a Sequential hides its layers and weights: give functools",
    ),
    "X17 jax.vmap of an NNX module": (
        SAME,
        lambda: jax.vmap(nnx_layer()),
        TypeError,
        "a function around a Port hides its layers and weights: give functools",
    ),
    "X17 nnx.vmap of one, twice": (
        SAME,
        lambda: nnx.vmap(nnx.vmap(nnx_layer())),
        TypeError,
        "a function around a Port hides its layers and weights: give functools",
    ),
    "X17 jax.vmap of a Linen module": (
        SAME,
        lambda: jax.vmap(normalizing(False)),
        TypeError,
        r"a function around a Normalizing hides .*partial\(module\.apply, variables\)",
    ),
    "X16 Linen without variables": (SAME, Dropping, TypeError, r"give module\.bind\(variables\)"),
    "X16 no model": (SAME, lambda: 3, TypeError, "a int is no model: give a torch, NNX, bound"),
    "X5 nothing to compare": (
        lambda: Torch(lambda m, x: "torch"),
        lambda: lambda x: "jax",
        ValueError,
        "nothing to compare",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(name: str) -> None:
    ref, port, error, words = REFUSALS[name]
    with pytest.raises(error, match=words):
        locate(ref(), port(), X, {})


def test_x12_what_drops_nothing_is_not_refused() -> None:
    """Rates of zero, and layers at rest."""
    ref, port = pair(lambda m, x: m.rest(m.fc(x)), lambda m, x: m.rest(m.fc(x)), FC)
    ref.rest = torch.nn.Sequential(torch.nn.Dropout(0), torch.nn.Dropout(0.5).eval())
    port.rest = nnx.Dropout(0.5, deterministic=True, rngs=nnx.Rngs(0))
    assert locate(ref, port, X, {"fc": "fc"}, bridge=AB).ok
    linen = Dropping(at_rest=True).bind({}, rngs={"dropout": jax.random.key(0)})
    assert locate(SAME(), linen, X, {}).ok
    ref.function = lambda m, x: torch.nn.functional.dropout(m.fc(x), 0.0)  # it draws all the same
    assert locate(ref, port, X, {"fc": "fc"}, bridge=AB).ok


def test_a_port_whose_weights_nobody_can_find() -> None:
    ref, port = pair(fc, fc)
    with pytest.raises(ValueError, match="the port holds no weights for the bridge"):
        locate(ref, lambda x: port(x), X, {}, bridge=AB)
    assert locate(ref, lambda x: port(x), X, {}).ok

"""Ports cast to float64, their modules' own dtypes too, and what still rounds is named."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity_tests import float32_islands, lift_float32, to_float64
from parity_tests.harness.variables import variables

pytest_plugins = ["parity_tests.plugin"]
pytestmark = pytest.mark.usefixtures("parity")  # x64 is on

HERE = Path(__file__).name
X = np.random.default_rng(0).normal(size=(2, 7, 5))


@dataclasses.dataclass(frozen=True)
class Config:
    dtype: Any = jnp.bfloat16
    width: int = 5


class NNXPort(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.config = Config()
        self.fc = nnx.Linear(5, 3, rngs=rngs, dtype=jnp.float32, param_dtype=jnp.float32)
        self.norm = nnx.BatchNorm(3, rngs=rngs, dtype="float32")
        self.position_dtype = jnp.int32
        self.table = nnx.data(jnp.arange(3, dtype=jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.fc(x.astype(self.config.dtype))) + self.table


class LinenPort(nn.Module):
    first: nn.Module
    layers: tuple[nn.Module, ...]
    config: Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(3, dtype=self.dtype)(self.first(x.astype(self.config.dtype)))
        for layer in self.layers:
            x = layer(x)
        return x


class EquinoxPort(eqx.Module):
    layers: list[Any]
    config: Config = eqx.field(static=True)
    dtype: Any = eqx.field(static=True, default=jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jax.vmap(jax.vmap(layer))(x.astype(self.config.dtype)).astype(self.dtype)
        return x


def function(params: dict[str, jax.Array], x: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    return x.astype(dtype) @ params["w"]


def linen_port() -> Any:
    module = LinenPort(nn.Dense(4, dtype=jnp.float32), (nn.LayerNorm(dtype=jnp.float32),), Config())
    x = jnp.asarray(X, jnp.float32)
    return module.bind(module.init(jax.random.key(0), x))


PORTS: dict[str, Callable[[], Any]] = {
    "nnx": lambda: NNXPort(nnx.Rngs(0)),
    "linen": linen_port,
    "equinox": lambda: EquinoxPort(
        [eqx.nn.Linear(5, 3, key=jax.random.key(0), dtype=jnp.float32)], Config()
    ),
    "function": lambda: functools.partial(
        function, {"w": jnp.ones((5, 3), jnp.bfloat16)}, dtype=jnp.float32
    ),
}


@pytest.mark.parametrize("kind", PORTS)
def test_a_port_in_float64_has_no_islands(kind: str) -> None:
    port = PORTS[kind]()
    before = {name: (str(v.dtype), np.asarray(v)) for name, v in variables(port).items()}
    wide = to_float64(port)
    assert {str(v.dtype) for v in variables(wide).values()} <= {"float64", "int32"}
    assert float32_islands(port, X)
    assert float32_islands(wide, X) == ()
    assert wide(jnp.asarray(X)).dtype == jnp.float64
    for name, (dtype, value) in before.items():  # the given one is as it was
        assert str(variables(port)[name].dtype) == dtype
        np.testing.assert_array_equal(np.asarray(variables(port)[name]), value)


def test_dtypes_of_modules_are_cast_and_others_stay() -> None:
    port = PORTS["nnx"]()
    wide = to_float64(port)
    assert (wide.fc.dtype, wide.fc.param_dtype, wide.norm.dtype) == (jnp.float64,) * 3
    assert (wide.config, wide.position_dtype) == (Config(jnp.float64), jnp.int32)
    assert wide.norm.mean[...].dtype == jnp.float64
    assert wide.table.dtype == jnp.int32
    assert (port.fc.dtype, port.norm.dtype, port.config) == (jnp.float32, "float32", Config())


def test_torch_modules_are_refused() -> None:
    with pytest.raises(TypeError, match=r"\.double\(\)"):
        to_float64(torch.nn.Linear(2, 2))


def rounds(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32).astype(x.dtype)


def table(x: jax.Array) -> jax.Array:
    return x * jnp.cos(jnp.arange(5, dtype=jnp.float32) / 3)


def attend(x: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(x[:, :, None], x[:, :, None], x[:, :, None])[:, :, 0]


def prefers(x: jax.Array) -> jax.Array:
    return jnp.matmul(x, x.mT, preferred_element_type=jnp.float32)


def statistics(x: jax.Array) -> jax.Array:
    h = x.astype(jnp.float32)  # the line that is named
    h = h - h.mean()
    return (h * jax.lax.rsqrt(jnp.var(h) + 1e-6)).astype(x.dtype)


def scale(x: jax.Array) -> jax.Array:
    return x / jnp.sqrt(jnp.float32(5))


def inside_jax(x: jax.Array) -> jax.Array:
    return x * jnp.var(jnp.arange(5, dtype=jnp.float32))  # JAX compiles that, once for all callers


def half(x: jax.Array) -> jax.Array:
    return x + x.astype(jnp.bfloat16)


def line(function: Callable[..., Any], offset: int = 1) -> str:
    return f"{HERE}:{function.__code__.co_firstlineno + offset} ({function.__name__})"


@pytest.mark.parametrize(
    ("function", "islands"),
    [
        (lambda x: x * 2, []),
        (rounds, [f"rounded to float32 in {line(rounds)}"]),
        (table, [f"computed in float32 in {line(table)}"]),
        (attend, [f"rounded to float32 in {line(attend)}"]),
        (prefers, [f"rounded to float32 in {line(prefers)}"]),
        (statistics, [f"rounded to float32 in {line(statistics)}"]),
        (scale, [f"computed in float32 in {line(scale)}"]),
        (inside_jax, [f"computed in float32 in {line(inside_jax)}"]),
        (half, [f"rounded to bfloat16 in {line(half)}"]),
        (lambda x: rounds(table(x)) + rounds(x), ["computed", "rounded"]),
        (jax.jit(rounds), ["rounded"]),
        (jax.vmap(rounds), ["rounded"]),
        (jax.checkpoint(rounds), ["rounded"]),
        (lambda x: jax.lax.scan(lambda c, y: (c + rounds(y), None), x[0], x)[0], ["rounded"]),
        (lambda x: jax.lax.cond(x[0, 0, 0] > 0, rounds, lambda x: x, x), ["rounded"]),
        (lambda x: jax.lax.fori_loop(0, x.shape[0], lambda i, c: rounds(c), x), ["rounded"]),
        (jax.grad(lambda x: rounds(x).sum()), ["rounded"]),
        # An island that goes into a loop is not named again inside it.
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c * c, x.astype("float32")), ["rounded"]),
    ],
)
def test_islands_are_named_by_line(function: Callable[..., Any], islands: list[str]) -> None:
    found = float32_islands(function, X)
    assert len(found) == len(islands)
    for text, start in zip(found, islands, strict=True):
        assert text.startswith(start)
    with lift_float32():
        assert float32_islands(function, X) == tuple(t for t in found if "bfloat16" in t)


def test_the_model_and_its_state_are_not_changed() -> None:
    port = to_float64(nnx.BatchNorm(5, rngs=nnx.Rngs(0)))
    before = np.asarray(port.mean[...])
    assert float32_islands(port, X) == ()
    np.testing.assert_array_equal(np.asarray(port.mean[...]), before)

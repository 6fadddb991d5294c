"""Correct ports that keep their weights otherwise: no layer differs, gradients included."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity_tests.harness.bridge import Bridge, Rule
from parity_tests.harness.layouts import CONV_TRANSPOSE2D, LINEAR
from parity_tests.harness.locate import locate
from parity_tests.harness.maps import chain, permute_rows, plus_constant, weight_norm
from parity_tests.harness.pairing import Twin

F64: Any = jnp.float64
KW: dict[str, Any] = dict(dtype=F64, param_dtype=F64, rngs=nnx.Rngs(0))
H, K, T = 3, 4, 5  # heads, their size, positions
HALVES = np.arange(H * K).reshape(H, 2, K // 2).swapaxes(1, 2).ravel()  # to pairs, head by head
BIAS = Rule("**.bias", "**.bias")


class TorchRotary(nn.Module):
    """A half of each head turned with the other; the frequencies are a parameter, ignored here."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = (nn.Linear(7, H * K) for _ in range(2))
        self.inv_freq = nn.Parameter(torch.tensor([1.0, 0.1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angle = torch.arange(T)[:, None] * self.inv_freq.detach()
        cos, sin = (f(angle).repeat(1, 2)[:, None] for f in (torch.cos, torch.sin))
        q, k = (f(x).reshape(T, H, K) for f in (self.q, self.k))
        q, k = (
            y * cos + torch.cat([-y[..., K // 2 :], y[..., : K // 2]], -1) * sin for y in (q, k)
        )
        return torch.einsum("thk,shk->hts", q, k)


class Rotary(nnx.Module):
    """Neighbours are turned together, so that columns of q and k lie in another order."""

    def __init__(self) -> None:
        self.q, self.k = (nnx.Linear(7, H * K, **KW) for _ in range(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        angle = jnp.arange(T, dtype=F64)[:, None] * jnp.asarray([1.0, np.float32(0.1)])
        turn = jnp.exp(1j * angle)[:, None]
        q, k = (f(x).reshape(T, H, K // 2, 2) for f in (self.q, self.k))
        q, k = ((y[..., 0] + 1j * y[..., 1]) * turn for y in (q, k))
        return jnp.einsum("thk,shk->hts", q, k.conj()).real


class TorchConvolutions(nn.Module):
    """Up, then flat: channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 3, (2, 3))
        self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(3 * 4 * 6, 5))
        self.scale = nn.Parameter(torch.randn(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.up(x).flatten(1)) * (1 + self.scale)


class Convolutions(nnx.Module):
    """Channels last, so that the flat ones come in another order; no weight norm; 1 + w kept."""

    def __init__(self) -> None:
        self.up = nnx.ConvTranspose(2, 3, (2, 3), padding="VALID", **KW)
        self.fc = nnx.Linear(4 * 6 * 3, 5, **KW)
        self.scale = nnx.Param(jnp.zeros(5))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.up(x).reshape(x.shape[0], -1)) * self.scale[...]


@dataclass(frozen=True)
class Pair:
    ref: Any
    port: Any
    rules: list[Rule]
    shape: tuple[int, ...]
    names: dict[str, Any]
    ignore: tuple[str, ...] = ()


FLAT = np.arange(3 * 4 * 6).reshape(3, 4, 6).transpose(1, 2, 0).ravel()
G, V = (f"fc.parametrizations.weight.original{i}" for i in range(2))
PAIRS = {
    "rotary": Pair(
        TorchRotary,
        Rotary,
        [
            Rule("{f}.weight", "{f}.kernel", chain(permute_rows(HALVES), LINEAR)),
            Rule("{f}.bias", "{f}.bias", permute_rows(HALVES)),
        ],
        (T, 7),
        {},
        ("inv_freq",),
    ),
    "convolutions": Pair(
        TorchConvolutions,
        Convolutions,
        [
            Rule("up.weight", "up.kernel", CONV_TRANSPOSE2D),
            Rule((G, V), "fc.kernel", chain(weight_norm(), permute_rows(FLAT, axis=1), LINEAR)),
            Rule("scale", "scale", plus_constant(1.0)),
            BIAS,
        ],
        (2, 2, 3, 4),
        {"": Twin("", (0, 2, 3, 1)), "up": Twin("up", (0, 2, 3, 1))},
    ),
}


def located(pair: Pair, rules: list[Rule]) -> Any:
    torch.manual_seed(0)
    ref = pair.ref().double()
    bridge = Bridge(rules, ignore=pair.ignore)
    x = np.random.default_rng(0).normal(size=pair.shape)
    with jax.enable_x64(True):
        port = bridge.to_port(ref, pair.port())
        return locate(ref, port, x, pair.names, bridge=bridge)


@pytest.mark.parametrize("name", PAIRS)
def test_no_layer_differs(name: str) -> None:
    found = located(PAIRS[name], PAIRS[name].rules)
    assert found.ok, found
    compared = {t.name for c in found.checks for t in c.report.tensors}
    parameters = {n for n, _ in PAIRS[name].ref().named_parameters()} - set(PAIRS[name].ignore)
    assert parameters <= compared


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("rotary", Rule("q.weight", "q.kernel", LINEAR)),
        ("convolutions", Rule((G, V), "fc.kernel", chain(weight_norm(), LINEAR))),
        ("convolutions", Rule("up.weight", "up.kernel", (2, 3, 0, 1))),
    ],
)
def test_the_plain_layout_is_told_from_it(name: str, rule: Rule) -> None:
    assert not located(PAIRS[name], [rule, *PAIRS[name].rules]).ok


def test_what_a_module_of_equinox_keeps_is_no_weight_of_a_buffer() -> None:
    """Every real array of a function's tree has a gradient; a buffer in torch has none."""

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))
            self.register_buffer("mean", torch.randn(3))
            self.mean: torch.Tensor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - self.mean) * self.weight

    ref, bridge = Norm().double(), Bridge([Rule("{x}", "{x}")])
    with jax.enable_x64(True):
        weights = {"weight": jnp.zeros(3), "mean": jnp.zeros(3)}
        empty = partial(lambda w, x: (x - w["mean"]) * w["weight"], weights)
        port = bridge.to_port(ref, empty)
    found = locate(ref, port, np.ones((2, 3)), {}, bridge=bridge)
    assert found.ok, found

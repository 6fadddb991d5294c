"""The same function with its weights laid out otherwise: rules and twins with functions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from jax import Array
from numpy.typing import NDArray
from torch import Tensor, nn

from parity_tests.harness.bridge import CONV1D, CONV2D, Rule
from parity_tests.harness.pairing import Twin
from parity_tests.ports.convolutions import IMAGE, SEQUENCE, conv, float64
from parity_tests.ports.perceptrons import KERNELS, linear
from parity_tests.ports.planting import nnx_attribute, nnx_class, nnx_weight
from parity_tests.ports.port import Fault, Port, normal
from parity_tests.ports.rotary import Neighbours, Rotary, TorchRotary

# Two heads of four channels: torch's halves 0 1 | 2 3 beside each other, 0 2 1 3.
BESIDE = np.array([0, 2, 1, 3, 4, 6, 5, 7])


def rows(order: NDArray[np.int_]) -> dict[str, Any]:
    """Of a torch weight [out in] to a kernel [in out] whose outputs are in another order."""
    back = np.argsort(order)
    return {"to_port": lambda w: w[order].T, "to_reference": lambda k: k.T[back]}


def columns(order: NDArray[np.int_]) -> dict[str, Any]:
    """The same of the inputs."""
    back = np.argsort(order)
    return {"to_port": lambda w: w[:, order].T, "to_reference": lambda k: k.T[:, back]}


class TorchTurned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.rotary = nn.Linear(6, 8), nn.Linear(6, 8), TorchRotary()

    def forward(self, x: Tensor) -> Tensor:
        q = self.rotary(self.query(x).unflatten(-1, (2, 4)))
        k = self.rotary(self.key(x).unflatten(-1, (2, 4)))
        return torch.einsum("bthk,bshk->bhts", q, k).softmax(-1)


class Turned(nnx.Module):
    def __init__(self) -> None:
        self.query, self.key, self.rotary = linear(6, 8), linear(6, 8), Neighbours()

    def __call__(self, x: Array) -> Array:
        q, k = (self.rotary(f(x).reshape(*x.shape[:2], 2, 4)) for f in (self.query, self.key))
        return jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k), -1)


def beside(x: Any) -> Any:
    """The port's order of channels, of one head or of two."""
    return x[..., BESIDE[: x.shape[-1]]]


def as_halves(x: Any) -> Any:
    return x[..., np.argsort(BESIDE[: x.shape[-1]])]


ROTARY_RULES = (
    *(Rule(f"{name}.weight", f"{name}.kernel", **rows(BESIDE)) for name in ("query", "key")),
    *(
        Rule(f"{name}.bias", f"{name}.bias", to_port=beside, to_reference=as_halves)
        for name in ("query", "key")
    ),
)
ROTARY = Port(
    "rotary pairs beside each other, permuted projections",
    "NNX",
    TorchTurned,
    Turned,
    normal(2, 5, 6),
    ROTARY_RULES,
    {
        "rotary": Twin("rotary", inputs=lambda x: (beside(x),), output=as_halves),
        "{part}": Twin("{part}", output=as_halves),
    },
    (
        Fault("rotary pairs of halves", "rotary", nnx_class("rotary", Rotary)),
        Fault("keys not permuted", "key", nnx_weight("key.kernel", as_halves)),
    ),
)


class TorchFlat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 5 * 2, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().flatten(1))


class Flat(nnx.Module):
    """Channels last when it is made flat: the kernel's inputs are permuted instead."""

    def __init__(self) -> None:
        self.conv, self.fc = conv(3, 4, 3), linear(40, 6)

    def __call__(self, x: Array) -> Array:
        return self.fc(jax.nn.relu(self.conv(x)).reshape(len(x), -1))


LAST = np.arange(40).reshape(4, 5, 2).transpose(1, 2, 0).ravel()
FLAT = Port(
    "flattened channels last, permuted kernel",
    "NNX",
    TorchFlat,
    Flat,
    normal(2, 3, 5, 2),
    (
        Rule("fc.weight", "fc.kernel", **columns(LAST)),
        Rule("conv.weight", "conv.kernel", CONV2D),
        Rule("**.bias", "**.bias"),
    ),
    {
        "": Twin("", IMAGE),
        "conv": Twin("conv", IMAGE),
        "fc": Twin("fc", inputs=lambda x: (x[:, LAST],)),
    },
    (
        Fault("a bias taken off", "fc", nnx_weight("fc.bias", jnp.negative)),
        Fault("padded on the right", "conv", nnx_attribute("conv", padding=((1, 1), (0, 2)))),
    ),
)


class TorchUp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.out = nn.ConvTranspose1d(4, 3, 4, stride=2, padding=1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.up(x).mT)


class Up(nnx.Module):
    def __init__(self) -> None:
        self.up = nnx.ConvTranspose(4, 3, (4,), 2, padding=((2, 2),), **float64())
        self.out = linear(3, 2)

    def __call__(self, x: Array) -> Array:
        return self.out(self.up(x))


FLIPPED = Port(
    "transposed convolution, flipped kernel",
    "NNX",
    TorchUp,
    Up,
    normal(2, 4, 6),
    (
        Rule(
            "up.weight",  # [in out width]
            "up.kernel",  # [width in out]
            to_port=lambda w: w.transpose(2, 0, 1)[::-1],
            to_reference=lambda k: k[::-1].transpose(1, 2, 0),
        ),
        *KERNELS,
    ),
    {"up": Twin("up", SEQUENCE), "out": "out"},
    (Fault("a kernel not flipped", "up", nnx_weight("up.kernel", lambda k: k[::-1])),),
    options={"port_inputs": normal(2, 4, 6).swapaxes(1, 2)},
)


class TorchWeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        parametrize = nn.utils.parametrizations.weight_norm
        self.conv, self.head = parametrize(nn.Conv1d(4, 3, 3, padding=1)), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mT)


class Normed(nnx.Module):
    """g v / |v| as in torch, a convolution's own."""

    def __init__(self) -> None:
        self.g, self.v = nnx.Param(jnp.zeros((1, 1, 3))), nnx.Param(jnp.zeros((3, 4, 3)))
        self.bias = nnx.Param(jnp.zeros(3))

    def __call__(self, x: Array) -> Array:
        kernel = self.g[...] * self.v[...] / self.length(self.v[...])
        y = jax.lax.conv_general_dilated(
            x, kernel, (1,), ((1, 1),), dimension_numbers=("NWC", "WIO", "NWC")
        )
        return y + self.bias[...]

    def length(self, v: Array) -> Array:
        return jnp.sqrt((v * v).sum((0, 1), keepdims=True))


class NormOfAll(Normed):
    def length(self, v: Array) -> Array:
        return jnp.sqrt((v * v).sum())


class WeightNorm(nnx.Module):
    def __init__(self) -> None:
        self.conv, self.head = Normed(), linear(3, 2)

    def __call__(self, x: Array) -> Array:
        return self.head(self.conv(x))


WEIGHT_NORM = Port(
    "weight norm",
    "NNX",
    TorchWeightNorm,
    WeightNorm,
    normal(2, 4, 5),
    (
        Rule("conv.parametrizations.weight.original0", "conv.g", CONV1D),
        Rule("conv.parametrizations.weight.original1", "conv.v", CONV1D),
        *KERNELS,
    ),
    {"conv": Twin("conv", SEQUENCE), "head": "head"},
    (Fault("one norm for all channels", "conv", nnx_class("conv", NormOfAll)),),
    options={"port_inputs": normal(2, 4, 5).swapaxes(1, 2)},
)

PORTS = (ROTARY, FLAT, FLIPPED, WEIGHT_NORM)

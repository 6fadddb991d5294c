"""Norms and residuals, in NNX."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.bridge import Rule
from parity_tests.ports.perceptrons import KERNELS, linear
from parity_tests.ports.planting import nnx_attribute, nnx_class, nnx_weight
from parity_tests.ports.port import Fault, Port, normal


class TorchRMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * self.weight


class TorchSwiGLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = TorchRMSNorm(6)
        self.gate, self.up = nn.Linear(6, 8, bias=False), nn.Linear(6, 8, bias=False)
        self.down = nn.Linear(8, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down(torch.nn.functional.silu(self.gate(y)) * self.up(y))


class RMSNorm(nnx.Module):
    def __init__(self, width: int) -> None:
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: Array) -> Array:
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * self.scale[...]


class EpsilonOutside(RMSNorm):
    def __call__(self, x: Array) -> Array:
        return x / (jnp.sqrt((x * x).mean(-1, keepdims=True)) + 1e-5) * self.scale[...]


class Unscaled(RMSNorm):
    def __call__(self, x: Array) -> Array:
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)


class OnePlus(RMSNorm):
    """As Gemma's, whose weights are kept without the 1."""

    def __call__(self, x: Array) -> Array:
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * (1 + self.scale[...])


class Centred(RMSNorm):
    def __call__(self, x: Array) -> Array:
        return super().__call__(x - x.mean(-1, keepdims=True))


class SwiGLU(nnx.Module):
    def __init__(self) -> None:
        self.norm = RMSNorm(6)
        self.gate, self.up, self.down = (
            linear(6, 8, False),
            linear(6, 8, False),
            linear(8, 6, False),
        )

    def __call__(self, x: Array) -> Array:
        y = self.norm(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


class GateOfUp(SwiGLU):
    def __call__(self, x: Array) -> Array:
        y = self.norm(x)
        return x + self.down(self.gate(y) * jax.nn.silu(self.up(y)))


class ResidualOfNorm(SwiGLU):
    def __call__(self, x: Array) -> Array:
        y = self.norm(x)
        return y + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


class SigmoidGate(SwiGLU):
    def __call__(self, x: Array) -> Array:
        y = self.norm(x)
        return x + self.down(jax.nn.sigmoid(self.gate(y)) * self.up(y))


SWIGLU_PORT = Port(
    "RMSNorm and SwiGLU",
    "NNX",
    TorchSwiGLU,
    SwiGLU,
    normal(2, 5, 6),
    (Rule("norm.weight", "norm.scale"), *KERNELS),
    {"**": "**"},
    (
        Fault("epsilon outside the root", "norm", nnx_class("norm", EpsilonOutside)),
        Fault("a scale forgotten", "norm", nnx_class("norm", Unscaled)),
        Fault("a scale of 1 + w", "norm", nnx_class("norm", OnePlus)),
        Fault("a mean subtracted", "norm", nnx_class("norm", Centred)),
        Fault("gate and up exchanged", "model", nnx_class("", GateOfUp)),
        Fault("residual from behind the norm", "model", nnx_class("", ResidualOfNorm)),
        Fault("sigmoid for SiLU", "model", nnx_class("", SigmoidGate)),
    ),
)


class TorchPostNorm(nn.Module):
    """The square layer fits as well with its transpose forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)
        self.act, self.head = nn.LeakyReLU(0.2), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x + self.act(self.mix(x))))


class LeakyReLU(nnx.Module):
    def __call__(self, x: Array) -> Array:
        return jnp.where(x > 0, x, 0.2 * x)


class DefaultSlope(LeakyReLU):
    def __call__(self, x: Array) -> Array:
        return jax.nn.leaky_relu(x)


class PostNorm(nnx.Module):
    def __init__(self) -> None:
        self.mix, self.act, self.head = linear(6, 6), LeakyReLU(), linear(6, 4)
        self.norm = nnx.LayerNorm(
            6, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0), param_dtype=jnp.float64
        )

    def __call__(self, x: Array) -> Array:
        return self.head(self.norm(x + self.act(self.mix(x))))


class PreNorm(PostNorm):
    def __call__(self, x: Array) -> Array:
        return self.head(x + self.act(self.mix(self.norm(x))))


def affine(norm: Any, y: Array) -> Array:
    return y * norm.scale[...] + norm.bias[...]


class UnbiasedVariance(nnx.LayerNorm):
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        y = x - x.mean(-1, keepdims=True)
        y /= jnp.sqrt(y.var(-1, ddof=1, keepdims=True) + 1e-5)
        return affine(self, y)


class OverPositions(nnx.LayerNorm):
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        y = x - x.mean(-2, keepdims=True)
        y /= jnp.sqrt(y.var(-2, keepdims=True) + 1e-5)
        return affine(self, y)


POST_NORM_PORT = Port(
    "post-norm residual",
    "NNX",
    TorchPostNorm,
    PostNorm,
    normal(2, 5, 6),
    (Rule("norm.weight", "norm.scale"), *KERNELS),
    {"**": "**"},
    (
        Fault("epsilon 1e-6 for 1e-5", "norm", nnx_attribute("norm", epsilon=1e-6)),
        Fault("variance over n - 1", "norm", nnx_class("norm", UnbiasedVariance)),
        Fault("norm over the positions", "norm", nnx_class("norm", OverPositions)),
        Fault("pre-norm for post-norm", "model", nnx_class("", PreNorm)),
        Fault("a square kernel transposed", "mix", nnx_weight("mix.kernel", jnp.transpose)),
        Fault("default slope of LeakyReLU", "act", nnx_class("act", DefaultSlope)),
    ),
)


PORTS = (SWIGLU_PORT, POST_NORM_PORT)

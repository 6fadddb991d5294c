"""Layers that change a state on which their own output depends, and layers in two modes."""

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.bridge import LINEAR, Rule
from parity_tests.ports.convolutions import float64
from parity_tests.ports.perceptrons import KERNELS, linear
from parity_tests.ports.planting import nnx_attribute, nnx_class
from parity_tests.ports.port import Fault, Port, normal

SAME_NAMES = {"**": "**"}


class TorchRunning(nn.Module):
    """Takes the mean of all its inputs so far away."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.running_mean = 0.8 * self.running_mean + 0.2 * x.detach().mean(0)
        return x - self.running_mean


class TorchCentred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.running, self.out = nn.Linear(6, 4), TorchRunning(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.running(self.running(self.fc(x))))


class Running(nnx.Module):
    keep = 0.8

    def __init__(self) -> None:
        self.mean = nnx.BatchStat(jnp.zeros(4))

    def __call__(self, x: Array) -> Array:
        now = jax.lax.stop_gradient(x).mean(0)
        self.mean[...] = self.keep * self.mean[...] + (1 - self.keep) * now
        return x - self.mean[...]


class OtherMomentum(Running):
    keep = 0.2


class OldMean(Running):
    def __call__(self, x: Array) -> Array:
        before = self.mean[...]
        super().__call__(x)
        return x - before


class Centred(nnx.Module):
    def __init__(self) -> None:
        self.fc, self.running, self.out = linear(6, 4), Running(), linear(4, 3)

    def __call__(self, x: Array) -> Array:
        return self.out(self.running(self.running(self.fc(x))))


RUNNING = Port(
    "a running mean of its inputs",
    "NNX",
    TorchCentred,
    Centred,
    normal(2, 6),
    (Rule("running.running_mean", "running.mean"), *KERNELS),
    SAME_NAMES,
    (
        Fault("momentum for 1 - momentum", "running", nnx_class("running", OtherMomentum)),
        Fault("the mean before the call", "running", nnx_class("running", OldMean)),
    ),
)


class TorchSpectral(nn.Module):
    """A step of power iteration at every call."""

    u: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 6))
        self.register_buffer("u", torch.arange(1.0, 5.0))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            v = nn.functional.normalize(self.weight.T @ self.u, dim=0)
            self.u.copy_(nn.functional.normalize(self.weight @ v, dim=0))
        return x @ (self.weight / (self.u @ self.weight @ v)).T


class TorchCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spectral, self.head = TorchSpectral(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.spectral(x).tanh())


class Spectral(nnx.Module):
    def __init__(self) -> None:
        self.kernel, self.u = nnx.Param(jnp.zeros((6, 4))), nnx.BatchStat(jnp.zeros(4))

    def __call__(self, x: Array) -> Array:
        kernel = jax.lax.stop_gradient(self.kernel[...])
        v = kernel @ self.u[...]
        v /= jnp.linalg.norm(v)
        u = v @ kernel
        self.u[...] = u / jnp.linalg.norm(u)
        return x @ (self.kernel[...] / self.largest(v))

    def largest(self, v: Array) -> Array:
        return v @ self.kernel[...] @ self.u[...]


class HeldFast(Spectral):
    """A norm taken for a constant."""

    def largest(self, v: Array) -> Array:
        return jax.lax.stop_gradient(super().largest(v))


class Critic(nnx.Module):
    def __init__(self) -> None:
        self.spectral, self.head = Spectral(), linear(4, 3)

    def __call__(self, x: Array) -> Array:
        return self.head(jnp.tanh(self.spectral(x)))


SPECTRAL = Port(
    "spectral norm",
    "NNX",
    TorchCritic,
    Critic,
    normal(2, 6),
    (Rule("spectral.u", "spectral.u"), *KERNELS),
    SAME_NAMES,
    (Fault("a norm held fast", "spectral", nnx_class("spectral", HeldFast), "backward"),),
)


class TorchNormed(nn.Module):
    """In training mode, but for the second norm, which a fine-tuning froze."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn, self.frozen = nn.Linear(6, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def train(self, mode: bool = True) -> "TorchNormed":
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.bn(self.fc(x)).tanh())


class AsTorch(nnx.BatchNorm):
    """Which keeps a running mean of the unbiased variance; flax's is of the biased one."""

    def __call__(
        self, x: Array, use_running_average: bool | None = None, *, mask: Array | None = None
    ) -> Array:
        before = self.var[...]
        y = super().__call__(x, use_running_average, mask=mask)
        if not self.use_running_average:
            more = self.var[...] - self.momentum * before
            self.var[...] += more * (len(x) / (len(x) - 1) - 1)
        return y


class Normed(nnx.Module):
    def __init__(self) -> None:
        self.fc = linear(6, 4)
        options = {"momentum": 0.9, "use_fast_variance": False, **float64()}
        self.bn = AsTorch(4, use_running_average=False, **options)
        self.frozen = AsTorch(4, use_running_average=True, **options)
        for norm in (self.bn, self.frozen):
            norm.mean, norm.var = nnx.BatchStat(jnp.zeros(4)), nnx.BatchStat(jnp.ones(4))

    def __call__(self, x: Array) -> Array:
        return self.frozen(jnp.tanh(self.bn(self.fc(x))))


AVERAGE = "use_running_average"
MODES = Port(
    "batch norm in training mode beside one in eval mode",
    "NNX",
    TorchNormed,
    Normed,
    normal(4, 6),
    (
        Rule("{norm}.running_mean", "{norm}.mean"),
        Rule("{norm}.running_var", "{norm}.var"),
        Rule("fc.weight", "fc.kernel", LINEAR),
        Rule("{norm}.weight", "{norm}.scale"),
        Rule("**.bias", "**.bias"),
    ),
    SAME_NAMES,
    (
        Fault("training mode for eval mode", "frozen", nnx_attribute("frozen", **{AVERAGE: False})),
        Fault("eval mode for training mode", "bn", nnx_attribute("bn", **{AVERAGE: True})),
        Fault("momentum .99 for .1", "bn", nnx_attribute("bn", momentum=0.99), "state"),
        Fault("a biased running variance", "bn", nnx_class("bn", nnx.BatchNorm), "state"),
    ),
    {"ignore": ("**.num_batches_tracked",)},
    modes=True,
)


PORTS = (RUNNING, SPECTRAL, MODES)

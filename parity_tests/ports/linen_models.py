"""More of Flax Linen: its own attention, a U-Net, a mixer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import torch
from jax import Array
from torch import Tensor

from parity_tests.harness.bridge import CONV2D, Rule
from parity_tests.harness.pairing import Twin
from parity_tests.ports.linen_ports import F64, IMAGE, KERNELS, Conv, Dense, Norm, bound
from parity_tests.ports.planting import linen
from parity_tests.ports.port import Fault, Port, normal


class TorchCausal(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (torch.nn.Linear(6, 6) for _ in range(3))
        self.out = torch.nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (2, 3)).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(-2))


class TorchCausalBlock(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = torch.nn.LayerNorm(6), TorchCausal()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.norm(x))


class CausalBlock(nn.Module):
    """The attention is given its mask: it takes an argument more than torch's."""

    diagonal: int = 0
    from_norm: bool = False
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = Norm(epsilon=self.epsilon, name="norm")(x)
        mask = jnp.tril(jnp.ones((1, 1, x.shape[1], x.shape[1]), bool), self.diagonal)
        attention = nn.MultiHeadDotProductAttention(2, param_dtype=F64, name="attention")
        return (y if self.from_norm else x) + attention(y, mask=mask)


def into_heads(name: str) -> tuple[Rule, Rule]:
    """[H·K C] -> [C H K], [H·K] -> [H K]."""
    path = f"attention.{name}"
    return (
        Rule(
            f"{path}.weight",
            f"{path}.kernel",
            to_port=lambda w: w.T.reshape(6, 2, 3),
            to_reference=lambda k: k.reshape(6, 6).T,
        ),
        Rule(
            f"{path}.bias",
            f"{path}.bias",
            to_port=lambda b: b.reshape(2, 3),
            to_reference=lambda b: b.reshape(6),
        ),
    )


CAUSAL = Port(
    "Linen's own attention, causal",
    "Linen",
    TorchCausalBlock,
    lambda: bound(CausalBlock(), jnp.zeros((1, 5, 6))),
    normal(2, 5, 6),
    (
        *into_heads("query"),
        *into_heads("key"),
        *into_heads("value"),
        Rule(
            "attention.out.weight",
            "attention.out.kernel",
            to_port=lambda w: w.T.reshape(2, 3, 6),
            to_reference=lambda k: k.reshape(6, 6).T,
        ),
        Rule("norm.weight", "norm.scale"),
        Rule("**.bias", "**.bias"),
    ),
    {"norm": "norm"},
    (
        Fault("a mask off by one", "model", linen(diagonal=1)),
        Fault("residual from behind the norm", "model", linen(from_norm=True)),
        Fault("flax's epsilon", "norm", linen(epsilon=1e-6)),
    ),
)


class TorchUNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = torch.nn.Conv2d(3, 4, 2, stride=2), torch.nn.Upsample(scale_factor=2)
        self.norm, self.out = torch.nn.GroupNorm(2, 4), torch.nn.Conv2d(7, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.norm(self.down(x)))
        return self.out(torch.cat([x, y], 1))


class Nearest(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class Bilinear(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        B, H, W, C = x.shape
        return jax.image.resize(x, (B, 2 * H, 2 * W, C), "bilinear")


class UNet(nn.Module):
    up: type[nn.Module] = Nearest
    skip_last: bool = False
    groups: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = Conv(4, (2, 2), 2, name="down")(x)
        norm: Any = nn.GroupNorm(self.groups, epsilon=1e-5, param_dtype=F64, name="norm")
        y = self.up(name="up")(norm(y))
        y = jnp.concatenate([y, x] if self.skip_last else [x, y], -1)
        return Conv(3, (1, 1), name="out")(y)


UNET = Port(
    "U-Net with group norm",
    "Linen",
    TorchUNet,
    lambda: bound(UNet(), jnp.zeros((1, 8, 6, 3))),
    normal(2, 3, 8, 6),
    (
        Rule("norm.weight", "norm.scale"),
        Rule("**.weight", "**.kernel", CONV2D),
        Rule("**.bias", "**.bias"),
    ),
    {"": Twin("", IMAGE), "**": Twin("**", IMAGE)},
    (
        Fault("bilinear for nearest", "up", linen(up=Bilinear)),
        Fault("the skip last", "model", linen(skip_last=True)),
        Fault("four groups for two", "norm", linen(groups=4)),
    ),
)


class TorchMixer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.tokens = torch.nn.LayerNorm(6), torch.nn.Linear(5, 5)
        self.channels, self.drop = torch.nn.Linear(6, 6), torch.nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.drop(self.tokens(y.mT).mT)
        return x + self.drop(self.channels(x)).sigmoid()


class Mixer(nn.Module):
    """Dropout at rest on both sides."""

    epsilon: float = 1e-5
    kept: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        drop = nn.Dropout(0.3, deterministic=True, name="drop")
        y = Norm(epsilon=self.epsilon, name="norm")(x)
        x = x + drop(Dense(5, name="tokens")(y.swapaxes(1, 2)).swapaxes(1, 2)) * self.kept
        return x + jax.nn.sigmoid(drop(Dense(6, name="channels")(x)) * self.kept)


MIXER = Port(
    "a mixer, dropout at rest",
    "Linen",
    TorchMixer,
    lambda: bound(Mixer(), jnp.zeros((1, 5, 6))),
    normal(2, 5, 6),
    (Rule("norm.weight", "norm.scale"), *KERNELS),
    {"norm": "norm", "tokens": "tokens", "channels": "channels"},
    (
        Fault("scaled as if it dropped", "model", linen(kept=0.7)),
        Fault("flax's epsilon", "norm", linen(epsilon=1e-6)),
    ),
)

PORTS = (CAUSAL, UNET, MIXER)

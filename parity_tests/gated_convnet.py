"""A pair of models that is not the lecture's: a gated convolutional net in torch and in NNX.

torch keeps channels first and flax last, so every activation changes its layout on the way.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import Tensor, nn

from parity_tests.harness.bridge import CONV1D, LINEAR, Bridge, Rule
from parity_tests.harness.pairing import Twin

B, L, C_IN, C, OUT = 2, 7, 3, 5, 4


class TorchGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(C, C, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x))


class TorchBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Conv1d(C, C, 3, padding=1)
        self.gate = TorchGate()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value(x) * self.gate(x)


class TorchNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(C_IN, C, 1)
        self.blocks = nn.ModuleList(TorchBlock() for _ in range(3))
        self.activation = nn.ReLU(inplace=True)
        self.head = nn.Linear(C, OUT)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.activation(x).mean(dim=-1))


def _conv(n_in: int, n_out: int, width: int, rngs: nnx.Rngs, dtype: jnp.dtype) -> nnx.Conv:
    return nnx.Conv(n_in, n_out, (width,), padding="SAME", rngs=rngs, param_dtype=dtype)


class Gate(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, dtype: jnp.dtype) -> None:
        self.conv = _conv(C, C, 3, rngs, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(self.conv(x))


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, dtype: jnp.dtype, gate: type[Gate]) -> None:
        self.value = _conv(C, C, 3, rngs, dtype)
        self.gate = gate(rngs, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.value(x) * self.gate(x)


class Net(nnx.Module):
    """`gate` is that of the second block."""

    def __init__(self, dtype: jnp.dtype, gate: type[Gate] = Gate) -> None:
        rngs = nnx.Rngs(0)
        self.stem = _conv(C_IN, C, 1, rngs, dtype)
        self.blocks = nnx.List([Block(rngs, dtype, g) for g in (Gate, gate, Gate)])
        self.head = nnx.Linear(C, OUT, rngs=rngs, param_dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(jax.nn.relu(x).mean(axis=1))


CHANNELS_LAST = (0, 2, 1)
NAMES = {
    "": Twin("", CHANNELS_LAST),
    "stem": Twin("stem", CHANNELS_LAST),
    "blocks.{i}": Twin("blocks.{i}", CHANNELS_LAST),
    "blocks.{i}.**": Twin("blocks.{i}.**", CHANNELS_LAST),
    "head": "head",
}
BRIDGE = Bridge(
    [
        Rule("head.weight", "head.kernel", LINEAR),
        Rule("**.weight", "**.kernel", CONV1D),
        Rule("**.bias", "**.bias"),
    ]
)


def reference() -> TorchNet:
    torch.manual_seed(0)
    return TorchNet().double()


def example_input(dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(B, C_IN, L)).astype(dtype)

"""Linear layers and activations, in NNX."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.bridge import LINEAR, Rule
from parity_tests.ports.planting import nnx_class
from parity_tests.ports.port import Fault, Port, normal

KERNELS = (
    Rule("{a}.weight", "{a}.kernel", LINEAR),
    Rule("{a}.{b}.weight", "{a}.{b}.kernel", LINEAR),
    Rule("**.bias", "**.bias"),
)


def linear(n_in: int, n_out: int, bias: bool = True) -> nnx.Linear:
    return nnx.Linear(
        n_in,
        n_out,
        use_bias=bias,
        kernel_init=nnx.initializers.zeros,  # it will be filled; random numbers take their time
        rngs=nnx.Rngs(0),
        param_dtype=jnp.float64,
    )


class Unbiased(nnx.Linear):
    def __call__(self, inputs: Array) -> Array:
        return inputs @ self.kernel[...]


class GELU(nnx.Module):
    def __call__(self, x: Array) -> Array:
        return jax.nn.gelu(x, approximate=False)


class TanhGELU(GELU):
    def __call__(self, x: Array) -> Array:
        return jax.nn.gelu(x)


class SigmoidGELU(GELU):
    def __call__(self, x: Array) -> Array:
        return x * jax.nn.sigmoid(1.702 * x)


class FrozenGELU(GELU):
    def __call__(self, x: Array) -> Array:
        return super().__call__(jax.lax.stop_gradient(x))


class DoubledGELU(GELU):
    """The right value, twice the gradient."""

    def __call__(self, x: Array) -> Array:
        y = super().__call__(x)
        return 2 * y - jax.lax.stop_gradient(y)


class TorchMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class MLP(nnx.Module):
    def __init__(self) -> None:
        self.fc1, self.act, self.fc2 = linear(6, 8), GELU(), linear(8, 4)

    def __call__(self, x: Array) -> Array:
        return self.fc2(self.act(self.fc1(x)))


MLP_PORT = Port(
    "MLP with exact GELU",
    "NNX",
    TorchMLP,
    MLP,
    normal(2, 5, 6),
    KERNELS,
    {"**": "**"},
    (
        Fault("tanh GELU for the exact one", "act", nnx_class("act", TanhGELU)),
        Fault("sigmoid GELU for the exact one", "act", nnx_class("act", SigmoidGELU)),
        Fault("a bias dropped", "fc1", nnx_class("fc1", Unbiased)),
        Fault("a stray stop_gradient", "act", nnx_class("act", FrozenGELU), "backward"),
        Fault("a gradient doubled", "act", nnx_class("act", DoubledGELU), "backward"),
    ),
)


PORTS = (MLP_PORT,)

"""Flax layers with every default that differs between flax and torch written out.

How a device computes them, and their derivatives, is in `ops`.

| layer | torch | flax | here |
|---|---|---|---|
| Linear weights | U(±1/√fan_in) | truncated normal, variance 1/fan_in | named by the caller |
| Linear bias | U(±1/√fan_in) | 0 | 0 |
| Embedding | N(0, 1) | N(0, 1/features) | named by the caller |
| embedding of an id outside the table | error | NaN, or wraps if negative | NaN |
| LayerNorm epsilon | 1e-5 | 1e-6 | 1e-5, from the configuration |
| LayerNorm variance | mean((x - mean)²) | mean(x²) - mean(x)² | mean((x - mean)²) |
| Dropout until told otherwise | on | on | off: `train_step` turns it on |
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from jax_attn.nn.ops.activations import gelu, relu
from jax_attn.nn.ops.look_up import look_up
from jax_attn.nn.ops.normalize import normalize
from jax_attn.nn.ops.products import linear_product

# torch's nn.Linear: U(-b, b) with b = 1/sqrt(fan_in), whose variance is (1/3)/fan_in.
uniform_fan_in = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros = jax.nn.initializers.zeros
normal = jax.nn.initializers.normal


def linear(
    in_features: int,
    out_features: int,
    *,
    use_bias: bool = True,
    kernel_init: jax.nn.initializers.Initializer,
    rngs: nnx.Rngs,
    dtype: DTypeLike | None,
    param_dtype: DTypeLike,
) -> nnx.Linear:
    """torch's nn.Linear, its kernel the transpose of torch's weight; the bias begins as zero."""
    return nnx.Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=zeros,
        dot_general=linear_product,
        rngs=rngs,
        dtype=dtype,
        param_dtype=param_dtype,
    )


class Embedding(nnx.Embed):
    """A table of rows; an id outside it gives NaN, never another id's row.

    torch raises there. Compiled code cannot, and plain indexing would clamp or wrap in silence.
    """

    def __call__(
        self, inputs: Integer[Array, "*shape"], out_sharding=None
    ) -> Float[Array, "*shape C"]:
        del out_sharding
        return look_up(self.embedding[...], inputs, self.dtype)


class LayerNorm(nnx.LayerNorm):
    """flax's, computed by `normalize`."""

    def __call__(
        self, x: Float[Array, "*batch C"], *, mask: jax.Array | None = None
    ) -> Float[Array, "*batch C"]:
        if mask is not None:
            return super().__call__(x, mask=mask)
        assert self.scale is not None
        scale, bias = self.scale[...], None if self.bias is None else self.bias[...]
        dtype = self.dtype or jnp.result_type(x, scale, scale if bias is None else bias)
        return normalize(x, scale, bias, self.epsilon, dtype)


def layer_norm(
    n_embd: int,
    *,
    epsilon: float,
    use_bias: bool = True,
    rngs: nnx.Rngs,
    dtype: DTypeLike | None,
    param_dtype: DTypeLike,
) -> LayerNorm:
    """torch's nn.LayerNorm; the statistics are computed in at least float32."""
    return LayerNorm(
        n_embd,
        epsilon=epsilon,
        use_bias=use_bias,
        use_fast_variance=False,
        rngs=rngs,
        dtype=dtype,
        param_dtype=param_dtype,
    )


# jax.nn.gelu means tanh unless told otherwise; torch's nn.GELU means the exact erf form.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": relu,
    "gelu": partial(gelu, approximate=False),
    "gelu_tanh": partial(gelu, approximate=True),
}

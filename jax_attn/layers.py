"""Flax layers with every default that differs between flax and torch written out.

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

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from numpy.typing import DTypeLike

# torch's nn.Linear: U(-b, b) with b = 1/sqrt(fan_in), whose variance is (1/3)/fan_in.
uniform_fan_in = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros = jax.nn.initializers.zeros
normal = jax.nn.initializers.normal


class Embedding(nnx.Embed):
    """A table of rows; an id outside it gives NaN, never another id's row.

    torch raises there. Compiled code cannot, and plain indexing would clamp or wrap in silence.
    """

    def __call__(self, inputs: Int[Array, "..."], out_sharding=None) -> Float[Array, "... C"]:
        table = self.embedding[...].astype(self.dtype)
        return table.at[inputs].get(
            mode="fill",
            fill_value=jnp.nan,
            wrap_negative_indices=False,
            out_sharding=out_sharding,
        )


def layer_norm(
    n_embd: int,
    *,
    epsilon: float,
    rngs: nnx.Rngs,
    dtype: DTypeLike | None,
    param_dtype: DTypeLike,
) -> nnx.LayerNorm:
    """torch's nn.LayerNorm; the statistics are computed in at least float32."""
    return nnx.LayerNorm(
        n_embd,
        epsilon=epsilon,
        use_fast_variance=False,
        rngs=rngs,
        dtype=dtype,
        param_dtype=param_dtype,
    )


def dropout(rate: float, rngs: nnx.Rngs) -> nnx.Dropout:
    """Zeroes with probability `rate` and scales the rest by 1/(1-rate), once `train()` is called.

    A model drops nothing until then, so that calling it is a function of its input.
    """
    return nnx.Dropout(rate, deterministic=True, rngs=rngs if rate > 0 else None)

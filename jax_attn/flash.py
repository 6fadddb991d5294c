"""Which way causal attention is computed on the device in use, and the ways that others wrote."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Implementation = Literal["explicit", "blocked", "cudnn", "tpu_flash"]
IMPLEMENTATIONS: tuple[str, ...] = get_args(Implementation)

LONGEST_EXPLICIT = 128  # so few positions have too small a masked half to be worth cutting out
TPU_BLOCK = 128


def accelerator() -> Literal["cpu", "cuda", "tpu", "other"]:
    """What the default device is, as far as it matters here."""
    device = jax.devices()[0]
    if device.platform in ("cpu", "tpu"):
        return device.platform
    return "cuda" if "cuda" in device.client.platform_version else "other"


def compute_capability() -> float:
    """Of the default CUDA device: 8.0 is Ampere."""
    return float(jax.devices()[0].compute_capability)


def choose_implementation(
    length: int, head_size: int, dtype: DTypeLike
) -> tuple[Implementation, str]:
    """The fastest way to compute causal attention of one length here, and why that one."""
    dtype = jnp.dtype(dtype)
    where = accelerator()
    if where == "cuda" and dtype in (jnp.bfloat16, jnp.float16):
        if compute_capability() < 8.0:
            reason = "cuDNN's flash attention needs an Ampere GPU or newer"
        elif head_size % 8 or head_size > 128:
            reason = f"cuDNN's flash attention takes no head of {head_size} channels"
        else:
            return "cudnn", f"cuDNN's flash attention, for {dtype} on a GPU"
    elif where == "cuda":
        reason = f"cuDNN's flash attention takes bfloat16 and float16, not {dtype}"
    elif where == "tpu":
        if length % TPU_BLOCK == 0:
            return "tpu_flash", "JAX's flash attention kernel for TPUs"
        reason = f"the TPU's kernel needs a multiple of {TPU_BLOCK} positions"
    else:
        reason = "the masked half is not computed"
    if length <= LONGEST_EXPLICIT:
        return "explicit", f"with {length} positions the masked half is small"
    return "blocked", reason


def cudnn_attention(
    query: Float[Array, "... T K"],
    key: Float[Array, "... T K"],
    value: Float[Array, "... T K"],
    scale: float,
) -> Float[Array, "... T K"]:
    """Causal attention by cuDNN; bfloat16 or float16."""
    query_, key_, value_ = (_batch_and_heads(x).swapaxes(1, 2) for x in (query, key, value))
    output = jax.nn.dot_product_attention(
        query_, key_, value_, is_causal=True, scale=scale, implementation="cudnn"
    )
    return output.swapaxes(1, 2).reshape(query.shape)


def tpu_flash_attention(
    query: Float[Array, "... T K"],
    key: Float[Array, "... T K"],
    value: Float[Array, "... T K"],
    scale: float,
) -> Float[Array, "... T K"]:
    """Causal attention by the kernel that comes with JAX; T a multiple of 128."""
    from jax.experimental.pallas.ops.tpu import flash_attention as kernel

    query_, key_, value_ = (_batch_and_heads(x) for x in (query, key, value))
    output = kernel.flash_attention(query_, key_, value_, causal=True, sm_scale=scale)
    return output.reshape(query.shape)


def _batch_and_heads(x: Float[Array, "... T K"]) -> Float[Array, "B H T K"]:
    return x.reshape((-1, *x.shape[-3:])) if x.ndim > 2 else x[None, None]

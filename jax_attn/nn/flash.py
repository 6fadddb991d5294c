"""Which way causal attention is computed on which device, and the ways that others wrote."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.nn.blocked import blocked_attention
from jax_attn.nn.ops.own_derivative import own_derivative

Implementation = Literal["explicit", "blocked", "cudnn", "tpu_flash"]
IMPLEMENTATIONS: tuple[str, ...] = get_args(Implementation)

LONGEST_EXPLICIT = 128  # so few positions have too small a masked half to be worth cutting out
TPU_LANES = 128  # the TPU's kernel takes positions, and channels above it, in multiples of this
TPU_BLOCK = 512  # positions a step of the TPU's kernel, where they divide evenly


@dataclass(frozen=True)
class Accelerator:
    """A kind of device other than a CPU, as far as it matters to the choice of a kernel."""

    platform: Literal["cuda", "rocm", "tpu"]  # by jax.lax.platform_dependent's names
    compute_capability: float | None = None  # of a CUDA device: 8.0 is Ampere


# The accelerator that programs are compiled for when this process has none; else None. JAX traces
# anew where it changes.
compiling_for = jax.make_user_context(None)


def accelerator() -> Accelerator | None:
    """What programs may come to run on beside a CPU: JAX's default device, if it is none."""
    if compiling_for.value is not None:
        return compiling_for.value
    device = jax.devices()[0]
    if device.platform == "cpu":
        return None
    if device.platform == "tpu":
        return Accelerator("tpu")
    if "cuda" in device.client.platform_version:
        return Accelerator("cuda", float(device.compute_capability))
    return Accelerator("rocm")


def choose_implementation(
    length: int, head_size: int, dtype: DTypeLike, device: Accelerator | None
) -> tuple[Implementation, str]:
    """The fastest way to compute causal attention of one length, and why that one.

    `device` None means a CPU.
    """
    if length <= LONGEST_EXPLICIT:
        return "explicit", f"with {length} positions the masked half is small"
    dtype = jnp.dtype(dtype)
    if device is None or device.platform == "rocm":
        return "blocked", "the masked half is not computed"
    if device.platform == "cuda":
        return _choose_on_cuda(head_size, dtype, device.compute_capability or 0.0)
    if length % TPU_LANES:
        return "blocked", f"the TPU's kernel needs a multiple of {TPU_LANES} positions"
    if head_size > TPU_LANES and head_size % TPU_LANES:
        return "blocked", f"the TPU's kernel takes no head of {head_size} channels"
    return "tpu_flash", "JAX's flash attention kernel for TPUs"


def _choose_on_cuda(
    head_size: int, dtype: jnp.dtype, compute_capability: float
) -> tuple[Implementation, str]:
    if dtype not in (jnp.bfloat16, jnp.float16):
        return "blocked", f"cuDNN's flash attention takes bfloat16 and float16, not {dtype}"
    if compute_capability < 8.0:
        return "blocked", "cuDNN's flash attention needs an Ampere GPU or newer"
    largest = 256 if compute_capability >= 9.0 else 128
    if head_size % 8 or head_size > largest:
        return "blocked", f"cuDNN's flash attention takes no head of {head_size} channels"
    return "cudnn", f"cuDNN's flash attention, for {dtype} on a GPU"


@own_derivative(nondiff_argnums=(3,), plain=blocked_attention)
def cudnn_attention(
    query: Float[Array, "... T K"],
    key: Float[Array, "... T K"],
    value: Float[Array, "... T K"],
    scale: float,
) -> Float[Array, "... T K"]:
    """Causal attention by cuDNN; bfloat16 or float16."""
    return _by_cudnn(query, key, value, scale)


def _by_cudnn(query: Array, key: Array, value: Array, scale: float) -> Array:
    query_, key_, value_ = (_batch_and_heads(x).swapaxes(1, 2) for x in (query, key, value))
    output = jax.nn.dot_product_attention(
        query_, key_, value_, is_causal=True, scale=scale, implementation="cudnn"
    )
    return output.swapaxes(1, 2).reshape(query.shape)


@own_derivative(nondiff_argnums=(3,), plain=blocked_attention)
def tpu_flash_attention(
    query: Float[Array, "... T K"],
    key: Float[Array, "... T K"],
    value: Float[Array, "... T K"],
    scale: float,
) -> Float[Array, "... T K"]:
    """Causal attention by the kernel that comes with JAX; T a multiple of 128."""
    return _by_tpu_kernel(query, key, value, scale)


def _by_tpu_kernel(query: Array, key: Array, value: Array, scale: float) -> Array:
    from jax.experimental.pallas.ops.tpu import flash_attention as kernel

    length = query.shape[-2]
    # JAX's own default is 128, with which the kernel starts sixteen times as many steps.
    n = max(n for n in range(TPU_LANES, TPU_BLOCK + 1, TPU_LANES) if length % n == 0)
    blocks = kernel.BlockSizes(
        block_b=1,
        block_q=n,
        block_k_major=n,
        block_k=n,
        block_q_major_dkv=n,
        block_k_major_dkv=n,
        block_q_dkv=n,
        block_k_dkv=n,
        block_k_major_dq=n,
        block_k_dq=n,
        block_q_dq=n,
    )
    query_, key_, value_ = (_batch_and_heads(x) for x in (query, key, value))
    output = kernel.flash_attention(
        query_, key_, value_, causal=True, sm_scale=scale, block_sizes=blocks
    )
    return output.reshape(query.shape)


def _batch_and_heads(x: Float[Array, "... T K"]) -> Float[Array, "B H T K"]:
    return x.reshape((-1, *x.shape[-3:])) if x.ndim > 2 else x[None, None]


# The makers' kernels bring a derivative of their own, for reverse mode only.


def _cudnn_forward(query, key, value, scale):
    return jax.vjp(partial(_by_cudnn, scale=scale), query, key, value)


def _tpu_flash_forward(query, key, value, scale):
    return jax.vjp(partial(_by_tpu_kernel, scale=scale), query, key, value)


def _backward(scale, derivative, doutput):
    del scale
    return derivative(doutput)


cudnn_attention.defvjp(_cudnn_forward, _backward)
tpu_flash_attention.defvjp(_tpu_flash_forward, _backward)

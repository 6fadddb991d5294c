"""The precision of float32 matrix products: as a run asks for it, and what that is on a device.

JAX's own words: "default" is fast on every device, "highest" as exact as float32. On a CPU there is
no difference.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import jax

from jax_attn.config import TrainConfig
from jax_attn.nn.flash import Accelerator

# What else JAX calls the three.
SYNONYMS = {
    None: "default",
    "bfloat16": "default",
    "fastest": "default",
    "tensorfloat32": "high",
    "bfloat16_3x": "high",
    "float32": "highest",
}
TPU_PASSES = {
    "default": "rounded to bfloat16 (--precision highest for full float32)",
    "high": "in three bfloat16 passes (--precision highest for full float32)",
    "highest": "in six bfloat16 passes, which is full float32",
}


def products(config: TrainConfig | None) -> AbstractContextManager[Any]:
    """Inside it, this thread's programs take float32 products as `config` asks.

    Where no run asks for anything, JAX's own setting (`JAX_DEFAULT_MATMUL_PRECISION`) stays.
    """
    precision = "default" if config is None else config.product_precision
    if precision == "default":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(precision)


def describe_products(config: TrainConfig, device: Accelerator | None) -> str:
    """What the float32 products of a run are on `device`; None means a CPU."""
    if device is None:
        return "products in full float32"
    with products(config):
        asked = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    asked = SYNONYMS.get(asked, asked)
    if device.platform == "tpu" and asked in TPU_PASSES:
        return f"products {TPU_PASSES[asked]}"
    if device.platform == "cuda" and asked in TPU_PASSES:
        if asked == "highest" or (device.compute_capability or 0.0) < 8.0:
            return "products in full float32"
        return "products in TF32 (--precision highest for full float32)"
    return f"products of JAX's precision {asked!r}"

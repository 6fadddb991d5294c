"""Causal attention, forward and backward, and its error against float32 explicit weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jax_attn as ja
from benchmarks.device.elementwise import normals
from benchmarks.device.record import Record
from benchmarks.device.sizes import Sizes
from benchmarks.device.timing import forward_backward, time_variants


def measure(record: Record, sizes: Sizes) -> None:
    device = jax.devices()[0]
    record.device = device.device_kind
    ways: dict[str, Any] = {
        name: by_heads(partial(ja.dot_product_attention, implementation=name))
        for name in ("auto", "explicit", "blocked")
    }
    fused = "cudnn" if device.platform == "gpu" else "xla"
    if device.platform == "gpu":
        ways["cudnn"] = by_heads(partial(ja.dot_product_attention, implementation="cudnn"))
    ways[f"jax.nn, {fused}"] = partial(
        jax.nn.dot_product_attention, is_causal=True, implementation=fused
    )
    # The longest first: it is the one that training needs.
    for length in sorted(sizes.attention_lengths, reverse=True):
        measure_length(record, sizes, ways, length)


def measure_length(record: Record, sizes: Sizes, ways: dict[str, Any], length: int) -> None:
    """The arrays are [B T H K], as the model's projections leave them."""
    gpt2 = sizes.gpt2
    shape = (gpt2.batch_size, length, gpt2.n_head, gpt2.n_embd // gpt2.n_head)
    *inputs, dy = (normals(*shape, seed=seed) for seed in range(4))
    variants = [forward_backward(name, way, inputs, dy) for name, way in ways.items()]
    reference = forward_backward(
        "float32",
        by_heads(partial(ja.dot_product_attention, implementation="explicit")),
        [x.astype(jnp.float32) for x in inputs],
        dy.astype(jnp.float32),
    )
    time_variants(record, f"attention, T {length:,}", variants, sizes, reference, shape=shape)


def by_heads(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`function`, which takes [B H T K], of arrays [B T H K]."""

    def swapped(*arrays: jax.Array) -> jax.Array:
        return function(*(x.swapaxes(1, 2) for x in arrays)).swapaxes(1, 2)

    return swapped

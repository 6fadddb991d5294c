"""What a new run leaves to the device: in what it computes, and in how many parts it takes a batch.

Chosen once, when the run is created, and written into its `config.json`: resumed elsewhere, it is
the same run.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from jax_attn.config import GPTShape, TrainConfig
from jax_attn.nn.flash import Accelerator

# What a block of a GPT keeps of a token for the derivative, in numbers a channel: 16 by the memory
# of GPT-2 of 2 and of 12 layers, compiled for an H100.
KEPT_A_CHANNEL = 17
# For what is kept of a micro-batch: of an accelerator's memory, the rest of which is for the
# parameters, their moments and gradients, and the logits; and of a machine that has none.
SHARE_KEPT = 0.5
CPU_BYTES_KEPT = 1 << 30


def choose_for_device(
    config: TrainConfig, device: Accelerator | None, memory: int | None
) -> tuple[TrainConfig, list[str]]:
    """`config` with nothing left open, and a line with its reason for every choice.

    `device` None means a CPU; `memory` is an accelerator's in bytes, None when it does not tell.
    """
    reasons = []
    if config.dtype == "auto":
        dtype, reason = _choose_dtype(device)
        config = replace(config, dtype=dtype)
        reasons.append(f"{dtype}: {reason}")
    if config.accumulate_steps == 0:
        parts = _choose_parts(config, None if device is None else memory)
        config = replace(config, accumulate_steps=parts)
        rows = config.batch_size // parts
        reasons.append(
            f"{rows:,} of a batch's {config.batch_size:,} sequences at once: what should fit into "
            "memory; --accumulate-steps takes it in more parts or fewer"
        )
    return config, reasons


def memory_in_use() -> int | None:
    """Bytes that JAX may take of the default device's memory; None when it does not tell."""
    statistics = jax.devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit")


def _choose_dtype(device: Accelerator | None) -> tuple[str, str]:
    if device is None:
        return "float32", "there is no accelerator; --dtype bfloat16 all the same"
    if device.platform == "tpu":
        return "bfloat16", "what a TPU multiplies; --dtype float32 keeps float32"
    if device.platform == "cuda" and (device.compute_capability or 0.0) >= 8.0:
        return "bfloat16", "twice as fast as TF32 on this GPU; --dtype float32 keeps float32"
    return "float32", "this GPU may not have bfloat16; --dtype bfloat16 all the same"


def _choose_parts(config: TrainConfig, memory: int | None) -> int:
    """The fewest parts of equal size of which each fits."""
    shape = config.model
    if not isinstance(shape, GPTShape) or config.rng == "torch":
        return 1
    room = CPU_BYTES_KEPT if memory is None else SHARE_KEPT * memory
    most = max(1, int(room // kept_bytes(config, shape)))
    sizes = (n for n in range(1, config.batch_size + 1) if config.batch_size % n == 0)
    return config.batch_size // max(n for n in sizes if n <= most)


def kept_bytes(config: TrainConfig, shape: GPTShape) -> int:
    """About what the blocks keep of one sequence for the derivative, without remat."""
    numbers = KEPT_A_CHANNEL * shape.n_embd
    if shape.dropout_rate > 0:  # the weights are then explicit: scores, weights, what is left
        numbers += 3 * shape.n_head * config.block_size
    return shape.n_layer * config.block_size * numbers * jnp.dtype(config.dtype).itemsize

"""GPT-2's training at a larger batch, each side alone: two at once would not fit the memory."""

from __future__ import annotations

import dataclasses
from functools import partial

from benchmarks.device.gpt2 import build_ours, build_torch, record_speed
from benchmarks.device.record import Record
from benchmarks.device.sizes import Sizes
from benchmarks.interleave import Side

SHARE = 0.95  # of the device's memory, for torch


def measure(record: Record, sizes: Sizes) -> None:
    large = dataclasses.replace(sizes.gpt2, batch_size=sizes.larger_batch)
    builds = {
        "jax_attn": partial(build_ours, large, sizes.steps),
        "torch": partial(build_torch, large, sizes.steps, sizes.torch_compiler, SHARE),
    }
    flops = None
    for name, build in builds.items():
        side = Side(name, build)
        try:
            seconds = [side.ask("run", 1) for _ in range(sizes.turns)]
            report = side.ask("report")
        finally:
            side.close()
        record.device = report.get("device")
        flops = flops or report  # of ours: both do the same arithmetic
        record_speed(record, name, seconds, large, flops)
        record.add(f"{name}, peak memory", report.get("peak_bytes"), "bytes", **report)

"""GPT-2's training at a larger batch, each side alone: two at once would not fit the memory."""

from __future__ import annotations

import dataclasses
from functools import partial

from benchmarks.device.gpt2 import build_ours, build_torch, record_memory, record_speed
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
    arithmetic = None
    for name, build in builds.items():
        side = Side(name, build)
        try:
            seconds = [side.ask("run", 1) for _ in range(sizes.turns)]
            report = side.ask("report")
        finally:
            side.close()
        record.device = report.get("device")
        arithmetic = arithmetic or report  # ours, for both: it is the same
        record_speed(record, name, seconds, large, arithmetic)
        record_memory(record, name, report)

"""GPT-2's training in bfloat16: this package and the best torch alive together, in turns."""

from __future__ import annotations

import os
import statistics
from functools import partial
from typing import Any

import numpy as np

from benchmarks.device.record import Record
from benchmarks.device.sizes import GPT2Sizes, Sizes
from benchmarks.interleave import DifferentResult, Side

SHARES = {"jax_attn": 0.5, "torch": 0.45}  # of the device's memory, at most
FIRST_LOSS = 1e-3  # relative difference that bfloat16 explains
SHORT_LOSSES = 5e-6  # that float32 explains, over a few steps; another GELU does not pass


# Each framework is imported by its own side only.
def build_ours(sizes: GPT2Sizes, steps: int) -> Any:
    from benchmarks.device.jax_gpt2 import JaxGPT2

    return JaxGPT2(sizes, steps)


def build_torch(sizes: GPT2Sizes, steps: int, compiler: str, share: float) -> Any:
    from benchmarks.device.torch_gpt2 import TorchGPT2

    return TorchGPT2(sizes, steps, compiler, share)


def measure(record: Record, sizes: Sizes) -> None:
    os.environ["XLA_CLIENT_MEM_FRACTION"] = str(SHARES["jax_attn"])
    build = partial(build_ours, sizes.gpt2, sizes.steps)
    build_other = partial(
        build_torch, sizes.gpt2, sizes.steps, sizes.torch_compiler, SHARES["torch"]
    )
    # Both compile at the same time.
    ours, other = Side("jax_attn", build), Side("torch", build_other)
    try:
        losses = {"jax_attn": ours.ask("result")}
        short = {"jax_attn": ours.ask("short_losses")}
        report = ours.ask("report")
        record.device = report["device"]
        batch = sizes.gpt2.batch_size
        record.add("jax_attn, compiled", report["compile_seconds"], "s", batch_size=batch)
        # Should torch not come to an end, these stand. It computes on processors meanwhile.
        alone = [ours.ask("run", 1) for _ in range(2)]
        record_speed(record, "jax_attn, beside torch's compilation", alone, sizes.gpt2, report)
        record_memory(record, "jax_attn", ours.ask("report"))

        losses["torch"], short["torch"] = other.ask("result"), other.ask("short_losses")
        their_report = other.ask("report")
        record.add("torch, compiled", their_report["compile_seconds"], "s", **their_report)
        agree(record, "float32 losses, tiny", short, SHORT_LOSSES)
        agree(record, "first loss", {n: x[:1] for n, x in losses.items()}, FIRST_LOSS)
        agree(record, f"losses of {sizes.steps} steps", losses, None)

        seconds: dict[str, list[float]] = {"jax_attn": [], "torch": []}
        for turn in range(sizes.turns):
            for side in (ours, other) if turn % 2 == 0 else (other, ours):
                seconds[side.name].append(side.ask("run", 1))
            now = {name: found[-1] for name, found in seconds.items()}
            record.add("step, in turns", now, "s", turn=turn, batch_size=batch)
        for side in (ours, other):
            record_speed(record, side.name, seconds[side.name], sizes.gpt2, report)
        record_memory(record, "torch", other.ask("report"))
        ratios = [t / o for t, o in zip(seconds["torch"], seconds["jax_attn"], strict=True)]
        record.add(
            "times torch's speed",
            statistics.median(ratios),
            low=min(ratios),
            high=max(ratios),
            batch_size=batch,
        )
    finally:
        ours.close()
        other.close()


def agree(
    record: Record, figure: str, losses: dict[str, np.ndarray], allowed: float | None
) -> None:
    """Records how far two sides' losses are apart; DifferentResult if it is more than allowed."""
    ours, theirs = (np.asarray(x, np.float64) for x in losses.values())
    apart = float(np.max(np.abs(ours - theirs) / np.abs(theirs)))
    record.add(
        f"{figure}, apart",
        apart,
        allowed=allowed,
        **{name: np.asarray(x, np.float64).tolist() for name, x in losses.items()},
    )
    if allowed is not None and not apart <= allowed:
        raise DifferentResult(f"{figure}: {apart:.1e} apart, allowed {allowed:.1e}; not timed")


def record_speed(
    record: Record,
    name: str,
    step_seconds: list[float],
    sizes: GPT2Sizes,
    report: dict[str, Any],
) -> None:
    """Tokens a second and MFU of the median step."""
    tokens = sizes.batch_size * sizes.length
    speed = tokens / statistics.median(step_seconds)
    of_one = report["mfu_of_one_token_per_second"]
    record.add(
        f"{name}, speed",
        speed,
        "tokens/s",
        batch_size=sizes.batch_size,
        mfu=None if of_one is None else of_one * speed,
        tflops=report["flops_per_token"] * speed / 1e12,
        steps=step_seconds,
    )


def record_memory(record: Record, name: str, report: dict[str, Any]) -> None:
    """The most bytes that arrays had at once, and all else that a side reports."""
    record.add(f"{name}, peak memory", report.get("peak_bytes"), "bytes", **report)

"""The benchmarks by name: each yields its rows as they are measured. Targets stand beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks import startup
from benchmarks.attention import JaxAttention, TorchAttention
from benchmarks.bigram import JaxBigram, TorchBigram
from benchmarks.generation import REQUESTS, JaxGeneration, TorchGeneration
from benchmarks.memory import memory_rows
from benchmarks.rows import Rows, best, row, timed
from benchmarks.time_to_loss import time_to_loss_rows
from benchmarks.training_step import JaxTraining, TorchTraining
from benchmarks.weights import LECTURE, MICRO, NANOGPT

SAME_LOSSES = 1e-3  # ten steps of training: float32 rounding grows along them
SAME_LOSSES_BFLOAT16 = 2e-2


def bigram() -> Rows:
    others = {
        "lecture torch": partial(TorchBigram, "lecture"),
        "best torch": partial(TorchBigram, "best"),
        "compiled torch": partial(TorchBigram, "compiled"),
    }
    # Each framework draws its own batches, so the losses agree as two runs do.
    timing = timed(JaxBigram, others, rtol=0.03)
    named = "bigram training step"
    yield row(named, timing, "lecture torch", unit="µs", scale=1e6, must=25, goal=50)
    fastest = best(timing, ["best torch", "compiled torch"])
    yield row(named, timing, fastest, unit="µs", scale=1e6, must=10, goal=20)


def attention() -> Rows:
    for length in (64, 256, 1024, 4096):
        shape = (8, 6, length, 64) if length <= 1024 else (1, 6, length, 64)
        others = {
            "torch SDPA": partial(TorchAttention, shape),
            "jax.nn": partial(JaxAttention, "jax.nn", shape),
        }
        timing = timed(partial(JaxAttention, "ours", shape), others, rtol=1e-4)
        named = f"attention forward + backward, B {shape[0]}, T {length}"
        headline = length == 256
        must, goal = (0.9, 1.2) if headline else (None, None)
        yield row(named, timing, "torch SDPA", must=must, goal=goal)
        must, goal = (2.5, 3.0) if headline else (None, None)
        yield row(named, timing, "jax.nn", must=must, goal=goal)


def training() -> Rows:
    for case in (MICRO, NANOGPT, LECTURE):
        others = {
            "best torch, eager": partial(TorchTraining, case, "eager"),
            "best torch, compiled": partial(TorchTraining, case, "compiled"),
            "lecture torch": partial(TorchTraining, case, "lecture"),
        }
        timing = timed(partial(JaxTraining, case), others, rtol=SAME_LOSSES)
        named = f"GPT training step, {case}"
        fastest = best(timing, ["best torch, eager", "best torch, compiled"])
        yield row(named, timing, fastest, must=1.0, goal=1.25)
        yield row(named, timing, "lecture torch")
    fastest = {"best torch, eager": partial(TorchTraining, LECTURE, "eager")}
    ours = partial(JaxTraining, LECTURE, "bfloat16")
    timing = timed(ours, fastest, rtol=SAME_LOSSES_BFLOAT16)
    named = f"GPT training step, bfloat16 against float32, {LECTURE}"
    yield row(named, timing, "best torch, eager", must=1.5, goal=1.8)


def generation() -> Rows:
    targets = {
        ("micro, within the window", "lecture torch"): (25, 30),
        ("lecture, within the window", "lecture torch"): (12, 18),
        ("GPT-2 124 M", "torch with a cache"): (1.2, 2.5),
    }
    for name, request in REQUESTS.items():
        others = {}
        if name != "GPT-2 124 M":
            others["lecture torch"] = partial(TorchGeneration, request, "lecture")
        if "past" not in name:
            others["torch with a cache"] = partial(TorchGeneration, request, "cached")
        timing = timed(partial(JaxGeneration, request), others, rtol=0.0)
        for other in others:
            must, goal = targets.get((name, other), (None, None))
            yield row(f"token, {name}", timing, other, must=must, goal=goal)


BENCHMARKS: dict[str, Callable[[], Rows]] = {
    "bigram": bigram,
    "attention": attention,
    "training": training,
    "generation": generation,
    "startup": startup.startup_rows,
    "memory": memory_rows,
    "time_to_loss": time_to_loss_rows,
}

"""How large everything is that the run measures: in full, and to rehearse on a CPU."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class GPT2Sizes:
    """A model of GPT-2's architecture and its batch."""

    n_layer: int
    n_head: int
    n_embd: int  # C
    vocab_size: int  # V
    length: int  # T
    batch_size: int  # B


GPT2 = GPT2Sizes(n_layer=12, n_head=12, n_embd=768, vocab_size=50257, length=1024, batch_size=32)
TINY = GPT2Sizes(n_layer=2, n_head=2, n_embd=32, vocab_size=257, length=48, batch_size=4)


@dataclass(frozen=True)
class Sizes:
    """What every part reads its sizes from."""

    product: int = 8192  # n of the [n n] @ [n n] that is the arithmetic's ceiling
    copied_bytes: int = 1 << 31  # read, and written
    gpt2: GPT2Sizes = GPT2
    steps: int = 10  # of training, in one compiled chunk
    turns: int = 5  # of each side
    larger_batch: int = 64
    lecture_vocabulary: int = 65
    lecture_channels: int = 384
    lecture_batch: tuple[int, int] = (64, 256)  # B, T
    lecture_heads: int = 6
    parts_of_logits: tuple[int, ...] = (1 << 26, 1 << 29)  # those of one part of the loss
    attention_lengths: tuple[int, ...] = (1, 7, 255, 1024)
    repeats: int = 20  # of an operation, in one compiled loop
    seconds: float = 0.06  # that each of five timings takes, about
    run_preset: str = "lecture"
    run_steps: int = 300  # a third of them between evaluations
    sample_tokens: int = 500
    decoded_tokens: int = 256
    decoded_batches: tuple[int, ...] = (1, 8)
    rungs: tuple[str, ...] = ("primitives", "attention", "loss")
    torch_compiler: str = "inductor"


FULL = Sizes()

REHEARSAL = Sizes(
    product=64,
    copied_bytes=1 << 16,
    gpt2=dataclasses.replace(TINY, n_layer=1),
    steps=2,
    turns=2,
    larger_batch=8,
    lecture_vocabulary=5,
    lecture_channels=16,
    lecture_batch=(4, 16),
    lecture_heads=2,
    parts_of_logits=(1 << 13, 1 << 14),
    attention_lengths=(1, 130),
    repeats=2,
    seconds=0.001,
    run_preset="bigram",  # a CPU compiles any other anew for every run
    run_steps=6,
    sample_tokens=8,
    decoded_tokens=8,
    decoded_batches=(1, 2),
    rungs=("averaging",),
    torch_compiler="aot_eager",  # inductor's C++ takes half a minute on a CPU
)

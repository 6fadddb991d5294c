"""What both frameworks train GPT-2 on and with: weights, batches and recipe, free of either."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.device.sizes import GPT2Sizes


@dataclass(frozen=True)
class Recipe:
    """AdamW that decays matrices only, clipping, and a cosine schedule after a linear rise."""

    learning_rate: float = 6e-4
    warmup_steps: int = 200
    steps: int = 2000  # where the cosine ends
    final_fraction: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, 2, …"""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = min((step - self.warmup_steps) / (self.steps - self.warmup_steps), 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * cosine)


RECIPE = Recipe()
# Of the float32 check: every part of the schedule, and updates that count, within few steps.
SHORT = Recipe(learning_rate=3e-3, warmup_steps=2, steps=8)
SHORT_STEPS = 6


def state_dict(sizes: GPT2Sizes, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights by GPT-2's names, matrices [in out]; no bias or norm is trivial.

    At any width so large that what goes into GELU has a deviation of 1: with smaller ones its two
    forms could not be told apart.
    """
    draw = np.random.default_rng(seed)
    c = sizes.n_embd
    whole = c**-0.5

    def normal(*shape: int, scale: float = whole) -> np.ndarray:
        return draw.standard_normal(shape, np.float32) * np.float32(scale)

    def linear(prefix: str, rows: int, columns: int, scale: float = whole) -> dict[str, np.ndarray]:
        weight = normal(rows, columns, scale=scale)
        return {f"{prefix}.weight": weight, f"{prefix}.bias": normal(columns)}

    def norm(prefix: str) -> dict[str, np.ndarray]:
        return {f"{prefix}.weight": 1 + normal(c), f"{prefix}.bias": normal(c)}

    end = whole / math.sqrt(2 * sizes.n_layer)  # of the matrices that end a residual branch
    state = {
        "transformer.wte.weight": normal(sizes.vocab_size, c),
        "transformer.wpe.weight": normal(sizes.length, c),
    } | norm("transformer.ln_f")
    for i in range(sizes.n_layer):
        block = f"transformer.h.{i}"
        state |= norm(f"{block}.ln_1") | norm(f"{block}.ln_2")
        state |= linear(f"{block}.attn.c_attn", c, 3 * c)
        state |= linear(f"{block}.attn.c_proj", c, c, end)
        state |= linear(f"{block}.mlp.c_fc", c, 4 * c)
        state |= linear(f"{block}.mlp.c_proj", 4 * c, c, end)
    return state


def zipf_ids(shape: tuple[int, ...], vocab_size: int, seed: int = 1) -> np.ndarray:
    """Ids of which the r-th likeliest has a probability in proportion to 1/r, as words have."""
    draw = np.random.default_rng(seed)
    weight = np.cumsum(1 / np.arange(1, vocab_size + 1))
    ranks = np.searchsorted(weight, draw.random(shape) * weight[-1])
    return draw.permutation(vocab_size)[np.minimum(ranks, vocab_size - 1)].astype(np.int32)


def batches(sizes: GPT2Sizes, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of so many steps, int32 [steps B T]."""
    tokens = zipf_ids((steps, sizes.batch_size, sizes.length + 1), sizes.vocab_size)
    return tokens[..., :-1], tokens[..., 1:]

"""Models to be timed, and random weights by the lecture's names that every side loads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """A GPT and its batch: T, L, H, C, B, V."""

    name: str
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    batch_size: int
    vocab_size: int = 65

    def __str__(self) -> str:
        return (
            f"{self.name} (C {self.n_embd}, H {self.n_head}, L {self.n_layer}, "
            f"B {self.batch_size}, T {self.block_size})"
        )


MICRO = Case("micro", block_size=32, n_layer=4, n_head=4, n_embd=64, batch_size=16)
NANOGPT = Case("nanoGPT-CPU", block_size=64, n_layer=4, n_head=4, n_embd=128, batch_size=12)
LECTURE = Case("lecture", block_size=256, n_layer=6, n_head=6, n_embd=384, batch_size=8)


def lecture_state_dict(case: Case, seed: int = 0) -> dict[str, np.ndarray]:
    """Matrices N(0, 0.02²), biases 0, norms 1, float32, by the names of the lecture's gpt.py."""
    draw = np.random.default_rng(seed)
    c, k = case.n_embd, case.n_embd // case.n_head

    def matrix(*shape: int) -> np.ndarray:
        return draw.normal(0, 0.02, shape).astype(np.float32)

    def norm(prefix: str) -> dict[str, np.ndarray]:
        return {
            f"{prefix}.weight": np.ones(c, np.float32),
            f"{prefix}.bias": np.zeros(c, np.float32),
        }

    state = {
        "token_embedding_table.weight": matrix(case.vocab_size, c),
        "position_embedding_table.weight": matrix(case.block_size, c),
        "lm_head.weight": matrix(case.vocab_size, c),
        "lm_head.bias": np.zeros(case.vocab_size, np.float32),
    } | norm("ln_f")
    for layer in range(case.n_layer):
        block = f"blocks.{layer}"
        for head in range(case.n_head):
            for part in ("key", "query", "value"):
                state[f"{block}.sa.heads.{head}.{part}.weight"] = matrix(k, c)
        state |= {
            f"{block}.sa.proj.weight": matrix(c, c),
            f"{block}.sa.proj.bias": np.zeros(c, np.float32),
            f"{block}.ffwd.net.0.weight": matrix(4 * c, c),
            f"{block}.ffwd.net.0.bias": np.zeros(4 * c, np.float32),
            f"{block}.ffwd.net.2.weight": matrix(c, 4 * c),
            f"{block}.ffwd.net.2.bias": np.zeros(c, np.float32),
        }
        state |= norm(f"{block}.ln1") | norm(f"{block}.ln2")
    return state


def random_batches(case: Case, n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """`n` batches of inputs and targets, int64 [n B T]."""
    shape = (n, case.batch_size, case.block_size + 1)
    tokens = np.random.default_rng(seed).integers(0, case.vocab_size, shape)
    return tokens[..., :-1], tokens[..., 1:]

"""nanoGPT's README recipe for a CPU, in the best torch: model, optimizer and schedule.

The recipe: C 128, 4 layers, 4 heads, T 64, B 12, 2,000 steps, exact GELU, no biases, tied output
matrix, AdamW with betas 0.9 and 0.99, decay 0.1 on matrices only, clipping at 1, learning rate 1e-3
after 100 steps of warm-up, cosine to 1e-4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

C, N_LAYER, N_HEAD, T, B, V = 128, 4, 4, 64, 12, 65
STEPS, WARMUP, RATE, LAST_RATE = 2_000, 100, 1e-3, 1e-4


class NanoBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(C, bias=False), nn.LayerNorm(C, bias=False)
        self.qkv, self.proj = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        self.expand = nn.Linear(C, 4 * C, bias=False)
        self.contract = nn.Linear(4 * C, C, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.ln1(x)).view(*x.shape[:2], 3, N_HEAD, C // N_HEAD)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(heads.transpose(1, 2).reshape(x.shape))
        return x + self.contract(F.gelu(self.expand(self.ln2(x))))


class NanoGPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(V, C), nn.Embedding(T, C)
        self.blocks = nn.Sequential(*[NanoBlock() for _ in range(N_LAYER)])
        self.ln_f = nn.LayerNorm(C, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("proj.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * N_LAYER) if residual else 0.02)

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        x = self.blocks(self.tokens(idx) + self.positions.weight)
        logits = self.ln_f(x) @ self.tokens.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_optimizer(model: nn.Module) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99), fused=True)


def learning_rate(step: int) -> float:
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    part = min(1.0, (step - WARMUP) / (STEPS - WARMUP))
    return LAST_RATE + 0.5 * (1 + math.cos(math.pi * part)) * (RATE - LAST_RATE)

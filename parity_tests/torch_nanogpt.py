"""A GPT with the names that nanoGPT and minGPT share: query, key and value are one Linear.

Written anew from what their state dicts hold; what has no weights and no effect, dropout, is left
out. nanoGPT has biases or none, ties its output matrix and computes the exact GELU; minGPT has all
biases, a matrix of its own, its causal masks as buffers and GPT-2's GELU.
"""

from typing import Any

import torch
from torch import Tensor, nn


class SelfAttention(nn.Module):
    def __init__(self, n_embd: int, n_head: int, block_size: int, bias: bool, masks: bool) -> None:
        super().__init__()
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=bias)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=bias)
        mask = torch.tril(torch.ones(1, 1, block_size, block_size))
        self.register_buffer("bias", mask if masks else None)
        self.n_head = n_head

    def heads(self, x: Tensor) -> list[Tensor]:
        """Query, key and value, each [B H T K]."""
        B, T, C = x.shape
        parts = self.c_attn(x).split(C, dim=-1)
        return [p.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for p in parts]

    def weights(self, x: Tensor) -> Tensor:
        """[B H T T]; rows sum to 1."""
        query, key, _ = self.heads(x)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        T = x.shape[1]
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        return scores.masked_fill(future, float("-inf")).softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.weights(x) @ self.heads(x)[2]
        return self.c_proj(heads.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(
        self, n_embd: int, n_head: int, block_size: int, bias: bool, masks: bool, gelu: str
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd, eps=1e-5, bias=bias)
        self.attn = SelfAttention(n_embd, n_head, block_size, bias, masks)
        self.ln_2 = nn.LayerNorm(n_embd, eps=1e-5, bias=bias)
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(n_embd, 4 * n_embd, bias=bias),
                "gelu": nn.GELU(gelu),
                "c_proj": nn.Linear(4 * n_embd, n_embd, bias=bias),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        hidden = self.mlp["gelu"](self.mlp["c_fc"](self.ln_2(x)))
        return x + self.mlp["c_proj"](hidden)


class NanoGPT(nn.Module):
    """`gelu` is "none", the exact one, or "tanh"; `masks`: keep them among the weights."""

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        bias: bool = True,
        tied: bool = True,
        masks: bool = False,
        gelu: str = "none",
    ) -> None:
        super().__init__()
        wte, wpe = nn.Embedding(vocab_size, n_embd), nn.Embedding(block_size, n_embd)
        blocks = [Block(n_embd, n_head, block_size, bias, masks, gelu) for _ in range(n_layer)]
        ln_f = nn.LayerNorm(n_embd, eps=1e-5, bias=bias)
        self.transformer = nn.ModuleDict(
            {"wte": wte, "wpe": wpe, "h": nn.ModuleList(blocks), "ln_f": ln_f}
        )
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        if tied:
            self.lm_head.weight = wte.weight

    def forward(self, idx: Tensor) -> dict[str, Any]:
        """The residual stream before each block and after the last norm, all weights, logits."""
        positions = torch.arange(idx.shape[1])
        x = self.transformer["wte"](idx) + self.transformer["wpe"](positions)
        hidden, weights = [x], []
        for block in self.transformer["h"].children():
            assert isinstance(block, Block)
            weights.append(block.attn.weights(block.ln_1(x)))
            x = block(x)
            hidden.append(x)
        hidden[-1] = self.transformer["ln_f"](x)
        return {
            "hidden": hidden,
            "wei": torch.stack(weights),
            "logits": self.lm_head(hidden[-1]),
        }

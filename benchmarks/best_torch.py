"""The best torch we can write: heads in one matrix, fused attention, fused AdamW."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.weights import Case


class FastBlock(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        c = case.n_embd
        self.n_head = case.n_head
        self.ln1, self.ln2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv = nn.Linear(c, 3 * c, bias=False)
        self.proj = nn.Linear(c, c)
        self.expand, self.contract = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.ln1(x)).split(C, dim=2)
        q, k, v = (y.view(B, T, self.n_head, -1).transpose(1, 2) for y in (q, k, v))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(heads.transpose(1, 2).reshape(B, T, C))
        return x + self.contract(F.relu(self.expand(self.ln2(x))))


class FastGPT(nn.Module):
    """The lecture's GPT without dropout."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        c = case.n_embd
        self.n_head = case.n_head
        self.token_embedding_table = nn.Embedding(case.vocab_size, c)
        self.position_embedding_table = nn.Embedding(case.block_size, c)
        self.blocks = nn.ModuleList([FastBlock(case) for _ in range(case.n_layer)])
        self.ln_f = nn.LayerNorm(c)
        self.lm_head = nn.Linear(c, case.vocab_size)

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        x = self.token_embedding_table(idx) + self.position_embedding_table.weight[: idx.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def load_lecture(self, state: dict[str, np.ndarray]) -> FastGPT:
        """Fills the model with weights by the lecture's names."""
        filled = set()

        def fill(parameter: Tensor, *names: str) -> None:
            parameter.copy_(torch.from_numpy(np.concatenate([state[n] for n in names])))
            filled.update(names)

        for name in ("token_embedding_table.weight", "position_embedding_table.weight"):
            fill(self.get_parameter(name), name)
        for layer in ("ln_f", "lm_head"):
            for kind in ("weight", "bias"):
                fill(self.get_parameter(f"{layer}.{kind}"), f"{layer}.{kind}")
        theirs = {"proj": "sa.proj", "expand": "ffwd.net.0", "contract": "ffwd.net.2"}
        for i in range(len(self.blocks)):
            parts = ("query", "key", "value")
            heads = [
                f"blocks.{i}.sa.heads.{h}.{p}.weight" for p in parts for h in range(self.n_head)
            ]
            fill(self.get_parameter(f"blocks.{i}.qkv.weight"), *heads)
            for layer in ("ln1", "ln2", "proj", "expand", "contract"):
                for kind in ("weight", "bias"):
                    name = f"blocks.{i}.{theirs.get(layer, layer)}.{kind}"
                    fill(self.get_parameter(f"blocks.{i}.{layer}.{kind}"), name)
        assert filled == set(state), filled ^ set(state)
        return self

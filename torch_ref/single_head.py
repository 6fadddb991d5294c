"""The lecture's first attentive model: embeddings, one head, logits."""

import torch
from torch import Tensor, nn

from torch_ref.attention import Head
from torch_ref.bigram import loss_of
from torch_ref.generate import generate


class SingleHeadLanguageModel(nn.Module):
    def __init__(self, vocab_size: int, block_size: int, n_embd: int, head_size: int) -> None:
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocab_size, n_embd)
        self.position_embedding_table = nn.Embedding(block_size, n_embd)
        self.sa_head = Head(n_embd, head_size, block_size)
        self.lm_head = nn.Linear(head_size, vocab_size)
        self.block_size = block_size

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """idx, targets [B T] -> logits [B T V] and the mean loss in nats (None without targets)."""
        T = idx.shape[1]
        tok_emb = self.token_embedding_table(idx)  # (B,T,C)
        pos_emb = self.position_embedding_table(torch.arange(T, device=idx.device))  # (T,C)
        x = self.sa_head(tok_emb + pos_emb)  # (B,T,K)
        logits = self.lm_head(x)  # (B,T,V)
        return logits, loss_of(logits, targets)

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int) -> Tensor:
        return generate(self, idx, max_new_tokens, self.block_size)

"""The bigram model: each token reads the logits of the next one off a table."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_ref.generate import generate


class BigramLanguageModel(nn.Module):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """idx, targets [B T] -> logits [B T V] and the mean loss in nats (None without targets).

        Targets of -1 are ignored.
        """
        logits = self.token_embedding_table(idx)
        return logits, loss_of(logits, targets)

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int) -> Tensor:
        return generate(self, idx, max_new_tokens)


def loss_of(logits: Tensor, targets: Tensor | None) -> Tensor | None:
    """Mean cross-entropy over the targets that are not -1; None without targets."""
    if targets is None:
        return None
    B, T, V = logits.shape
    return F.cross_entropy(logits.view(B * T, V), targets.reshape(B * T), ignore_index=-1)

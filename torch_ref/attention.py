"""One head of attention, and several heads in parallel, with an explicit `wei`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Head(nn.Module):
    """One head of attention.

    n_embd: channels in; head_size: channels out; block_size: the longest sequence.
    causal=False makes an encoder's head; scale=1.0 the unscaled head of the lecture's first cells
    (None: head_size ** -0.5).
    """

    def __init__(
        self,
        n_embd: int,
        head_size: int,
        block_size: int,
        dropout: float = 0.0,
        causal: bool = True,
        scale: float | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.key = nn.Linear(n_embd, head_size, bias=bias)
        self.query = nn.Linear(n_embd, head_size, bias=bias)
        self.value = nn.Linear(n_embd, head_size, bias=bias)
        self.causal = causal
        self.scale = head_size**-0.5 if scale is None else scale
        if causal:
            self.register_buffer("tril", torch.tril(torch.ones(block_size, block_size)))
        self.dropout = nn.Dropout(dropout)

    def weights(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`wei` before dropout: [B T S], rows sum to 1. With a context, all of it is seen."""
        T = x.shape[1]
        k = self.key(x if context is None else context)  # (B,S,K)
        q = self.query(x)  # (B,T,K)
        wei = q @ k.transpose(-2, -1) * self.scale  # (B,T,K) @ (B,K,S) -> (B,T,S)
        if self.causal and context is None:
            wei = wei.masked_fill(self.get_buffer("tril")[:T, :T] == 0, float("-inf"))
        return F.softmax(wei, dim=-1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """[B T C] -> [B T K]; keys and values come from `context` [B S C] if it is given."""
        wei = self.dropout(self.weights(x, context))
        v = self.value(x if context is None else context)  # (B,S,K)
        return wei @ v


class MultiHeadAttention(nn.Module):
    """Several heads in parallel, their outputs side by side, and a projection."""

    def __init__(
        self,
        n_embd: int,
        num_heads: int,
        block_size: int,
        dropout: float = 0.0,
        causal: bool = True,
        qkv_bias: bool = False,
        proj_bias: bool = True,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        head_size = n_embd // num_heads
        self.heads = nn.ModuleList(
            Head(n_embd, head_size, block_size, dropout, causal, scale, qkv_bias)
            for _ in range(num_heads)
        )
        self.proj = nn.Linear(n_embd, n_embd, bias=proj_bias)
        self.dropout = nn.Dropout(dropout)

    def weights(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """[B H T S]: every head's `wei`."""
        return torch.stack([h.weights(x, context) for h in self._heads()], dim=1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """[B T C] -> [B T C]."""
        out = torch.cat([h(x, context) for h in self._heads()], dim=-1)
        return self.dropout(self.proj(out))

    def _heads(self) -> list[Head]:
        return [head for head in self.heads if isinstance(head, Head)]

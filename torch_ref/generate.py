"""Sampling, one token at a time, with the context growing and then sliding."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@torch.no_grad()
def generate(
    model: nn.Module,
    idx: Tensor,
    max_new_tokens: int,
    block_size: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """idx [B T] -> [B T+max_new_tokens], in the mode (train or eval) that the model is in.

    block_size: the last so many tokens are the context (None: all). temperature 0 takes the
    likeliest token; top_k samples among the k likeliest, top_p then among the fewest likeliest of
    those that have the probability p together.
    """
    for _ in range(max_new_tokens):
        idx_cond = idx if block_size is None else idx[:, -block_size:]
        logits, _ = model(idx_cond)
        logits = logits[:, -1, :]  # (B,V)
        if temperature == 0:
            idx_next = logits.argmax(dim=-1, keepdim=True)
        else:
            logits = logits / temperature
            if top_k is not None:
                smallest_kept = torch.topk(logits, min(top_k, logits.shape[-1])).values[:, [-1]]
                logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
            if top_p is not None:
                logits = keep_likeliest(logits, top_p)
            probs = F.softmax(logits, dim=-1)
            idx_next = torch.multinomial(probs, num_samples=1)  # (B,1)
        idx = torch.cat((idx, idx_next), dim=1)
    return idx


def keep_likeliest(logits: Tensor, top_p: float) -> Tensor:
    """Logits [B V], -inf in the place of those before whom the likelier ones have top_p together.

    Of equally likely ones at the border all are kept.
    """
    ordered = logits.sort(dim=-1, descending=True).values  # (B,V)
    probs = F.softmax(ordered, dim=-1)
    likelier = probs.cumsum(dim=-1) - probs  # what the ones before have together
    n_kept = (likelier < top_p).sum(dim=-1, keepdim=True)  # (B,1), at least the first
    smallest_kept = ordered.gather(-1, n_kept - 1)
    return logits.masked_fill(logits < smallest_kept, float("-inf"))

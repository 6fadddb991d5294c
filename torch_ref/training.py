"""One training step, batches and the loss estimate, as functions."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

GetBatch = Callable[[str], tuple[Tensor, Tensor]]


def get_batch(data: Tensor, block_size: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Windows at random places of `data` [N] and the same moved on by one: two [B T]."""
    ix = torch.randint(len(data) - block_size, (batch_size,))
    x = torch.stack([data[i : i + block_size] for i in ix])
    y = torch.stack([data[i + 1 : i + block_size + 1] for i in ix])
    return x, y


def make_optimizer(model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """AdamW with torch's defaults: betas 0.9, 0.999, eps 1e-8, weight decay 0.01 on everything."""
    return torch.optim.AdamW(model.parameters(), lr=learning_rate)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    xb: Tensor,
    yb: Tensor,
    clip_norm: float | None = None,
) -> Tensor:
    """One optimizer step on the batch; returns the loss before it, in nats per token."""
    _, loss = model(xb, yb)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def estimate_loss(model: nn.Module, get_batch: GetBatch, eval_iters: int = 200) -> dict[str, float]:
    """Mean loss over `eval_iters` random batches of "train" and of "val", dropout off."""
    out = {}
    was_training = model.training
    model.eval()
    for split in ["train", "val"]:
        losses = torch.zeros(eval_iters)
        for k in range(eval_iters):
            X, Y = get_batch(split)
            _, loss = model(X, Y)
            losses[k] = loss.item()
        out[split] = losses.mean().item()
    model.train(was_training)
    return out

"""Versions 1 to 3 of the lecture's "mathematical trick": three ways to average over the past."""

import torch
from torch import Tensor
from torch.nn import functional as F


def averaging_weights(length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """[T T]: row t holds 1/(t+1) in its first t+1 places, 0 after."""
    wei = torch.tril(torch.ones(length, length, dtype=dtype))
    return wei / wei.sum(dim=1, keepdim=True)


def softmax_averaging_weights(length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same matrix: zeros, -inf above the diagonal, softmax over each row."""
    tril = torch.tril(torch.ones(length, length))
    wei = torch.zeros((length, length), dtype=dtype)
    wei = wei.masked_fill(tril == 0, float("-inf"))
    return F.softmax(wei, dim=-1)


def running_mean_loop(x: Tensor) -> Tensor:
    """Version 1: x [B T C] -> [B T C], the mean of x[b, 0..t] at every t."""
    B, T, C = x.shape
    xbow = torch.zeros((B, T, C), dtype=x.dtype)
    for b in range(B):
        for t in range(T):
            xprev = x[b, : t + 1]
            xbow[b, t] = torch.mean(xprev, 0)
    return xbow


def running_mean_matmul(x: Tensor) -> Tensor:
    """Version 2: the same by one matrix product."""
    return averaging_weights(x.shape[1], x.dtype) @ x


def running_mean_softmax(x: Tensor) -> Tensor:
    """Version 3: the same by masked softmax."""
    return softmax_averaging_weights(x.shape[1], x.dtype) @ x

"""The "let's build GPT" lecture in PyTorch, as it was taught: the yardstick of the JAX port."""

from torch_ref.attention import Head, MultiHeadAttention
from torch_ref.averaging import (
    averaging_weights,
    running_mean_loop,
    running_mean_matmul,
    running_mean_softmax,
    softmax_averaging_weights,
)
from torch_ref.bigram import BigramLanguageModel
from torch_ref.generate import generate
from torch_ref.gpt import Block, FeedForward, GPTLanguageModel
from torch_ref.single_head import SingleHeadLanguageModel
from torch_ref.training import estimate_loss, get_batch, make_optimizer, train_step

__all__ = [
    "BigramLanguageModel",
    "Block",
    "FeedForward",
    "GPTLanguageModel",
    "Head",
    "MultiHeadAttention",
    "SingleHeadLanguageModel",
    "averaging_weights",
    "estimate_loss",
    "generate",
    "get_batch",
    "make_optimizer",
    "running_mean_loop",
    "running_mean_matmul",
    "running_mean_softmax",
    "softmax_averaging_weights",
    "train_step",
]

"""The lecture's GPT; a few options more give GPT-2's shape."""

import torch
from torch import Tensor, nn

from torch_ref.attention import MultiHeadAttention
from torch_ref.bigram import loss_of
from torch_ref.generate import generate

ACTIVATIONS = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
}


class FeedForward(nn.Module):
    """Linear to 4C (or n_inner), activation, linear back, dropout."""

    def __init__(
        self,
        n_embd: int,
        dropout: float = 0.0,
        activation: str = "relu",
        bias: bool = True,
        n_inner: int = 0,
    ) -> None:
        super().__init__()
        inner = n_inner or 4 * n_embd
        self.net = nn.Sequential(
            nn.Linear(n_embd, inner, bias=bias),
            ACTIVATIONS[activation](),
            nn.Linear(inner, n_embd, bias=bias),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Block(nn.Module):
    """Communication, then computation."""

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        block_size: int,
        dropout: float = 0.0,
        activation: str = "relu",
        qkv_bias: bool = False,
        layer_norm_epsilon: float = 1e-5,
        linear_bias: bool = True,
        norm_bias: bool = True,
        attention_scale: float | None = None,
        n_inner: int = 0,
    ) -> None:
        super().__init__()
        self.sa = MultiHeadAttention(
            n_embd,
            n_head,
            block_size,
            dropout,
            qkv_bias=qkv_bias,
            proj_bias=linear_bias,
            scale=attention_scale,
        )
        self.ffwd = FeedForward(n_embd, dropout, activation, linear_bias, n_inner)
        self.ln1 = nn.LayerNorm(n_embd, eps=layer_norm_epsilon, bias=norm_bias)
        self.ln2 = nn.LayerNorm(n_embd, eps=layer_norm_epsilon, bias=norm_bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.sa(self.ln1(x))
        x = x + self.ffwd(self.ln2(x))
        return x


class GPTLanguageModel(nn.Module):
    """The defaults are the lecture's final model: 10.8 M parameters.

    linear_bias: of the projections after attention and in the feed-forward. attention_scale: None
    is head_size ** -0.5; the last cell of the lecture's notebook has n_embd ** -0.5. n_inner: the
    feed-forward's channels, 0 is 4 * n_embd.
    """

    def __init__(
        self,
        vocab_size: int = 65,
        block_size: int = 256,
        n_layer: int = 6,
        n_head: int = 6,
        n_embd: int = 384,
        dropout: float = 0.2,
        activation: str = "relu",
        qkv_bias: bool = False,
        tie_embeddings: bool = False,
        head_bias: bool = True,
        layer_norm_epsilon: float = 1e-5,
        linear_bias: bool = True,
        norm_bias: bool = True,
        attention_scale: float | None = None,
        n_inner: int = 0,
    ) -> None:
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocab_size, n_embd)
        self.position_embedding_table = nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(
            *[
                Block(
                    n_embd,
                    n_head,
                    block_size,
                    dropout,
                    activation,
                    qkv_bias,
                    layer_norm_epsilon,
                    linear_bias,
                    norm_bias,
                    attention_scale,
                    n_inner,
                )
                for _ in range(n_layer)
            ]
        )
        self.ln_f = nn.LayerNorm(n_embd, eps=layer_norm_epsilon, bias=norm_bias)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=head_bias)
        self.block_size = block_size
        self.apply(self._init_weights)
        if tie_embeddings:
            self.lm_head.weight = self.token_embedding_table.weight

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            torch.nn.init.normal_(module.weight, mean=0.0, std=0.02)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            torch.nn.init.normal_(module.weight, mean=0.0, std=0.02)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """idx, targets [B T] -> logits [B T V] and the mean loss in nats (None without targets).

        Targets of -1 are ignored. T may be at most block_size.
        """
        T = idx.shape[1]
        tok_emb = self.token_embedding_table(idx)  # (B,T,C)
        pos_emb = self.position_embedding_table(torch.arange(T, device=idx.device))  # (T,C)
        x = tok_emb + pos_emb  # (B,T,C)
        x = self.blocks(x)  # (B,T,C)
        x = self.ln_f(x)  # (B,T,C)
        logits = self.lm_head(x)  # (B,T,V)
        return logits, loss_of(logits, targets)

    def attention_weights(self, idx: Tensor) -> Tensor:
        """[L B H T T]: every layer's and head's `wei`."""
        x = self.token_embedding_table(idx)
        x = x + self.position_embedding_table(torch.arange(idx.shape[1], device=idx.device))
        weights = []
        for block in self.blocks:
            assert isinstance(block, Block)
            weights.append(block.sa.weights(block.ln1(x)))
            x = block(x)
        return torch.stack(weights)

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int) -> Tensor:
        return generate(self, idx, max_new_tokens, self.block_size)

"""The GPT: pre-norm transformer blocks between embeddings and logits.

One class covers the lecture's model and GPT-2's shape; `GPTConfig` says which.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Integer

from jax_attn.config import GPTConfig
from jax_attn.errors import InputError
from jax_attn.nn.attention import MultiHeadAttention
from jax_attn.nn.chunked_loss import chunked_loss_sum, needs_parts
from jax_attn.nn.dropout import dropout
from jax_attn.nn.inputs import check_channels, check_ids, check_pairs, check_rngs
from jax_attn.nn.key_value_cache import Cache, KeyValues
from jax_attn.nn.layers import ACTIVATIONS, Embedding, layer_norm, linear, normal, zeros
from jax_attn.nn.loss import next_token_loss_sum
from jax_attn.nn.ops.add_to_all import add_to_all
from jax_attn.nn.ops.products import matmul, matmul_rows


class FeedForward(nnx.Module):
    """Linear to 4C or n_inner, activation, linear back, dropout."""

    def __init__(
        self,
        config: GPTConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.expand = linear(
            config.n_embd,
            config.feed_forward_size,
            use_bias=config.linear_bias,
            kernel_init=normal(init_std(config)),
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        self.contract = linear(
            config.feed_forward_size,
            config.n_embd,
            use_bias=config.linear_bias,
            kernel_init=normal(residual_std(config)),
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        self.dropout = dropout(config.dropout_rate, rngs)
        self.activation = config.activation
        self.n_embd = config.n_embd

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        check_channels(x, self.n_embd)
        return self.dropout(self.contract(ACTIVATIONS[self.activation](self.expand(x))))


class Block(nnx.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(
        self,
        config: GPTConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.ln1 = layer_norm(
            config.n_embd,
            epsilon=config.layer_norm_epsilon,
            use_bias=config.norm_bias,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        self.sa = MultiHeadAttention(
            config.n_embd,
            config.n_head,
            dropout_rate=config.dropout_rate,
            qkv_bias=config.qkv_bias,
            proj_bias=config.linear_bias,
            scale=config.attention_scale,
            kernel_init=normal(init_std(config)),
            proj_init=normal(residual_std(config)),
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        self.ln2 = layer_norm(
            config.n_embd,
            epsilon=config.layer_norm_epsilon,
            use_bias=config.norm_bias,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        self.ffwd = FeedForward(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.n_embd = config.n_embd

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        check_channels(x, self.n_embd)
        x = x + self.sa(self.ln1(x))
        return x + self.ffwd(self.ln2(x))

    def step(
        self, x: Float[Array, "B 1 C"], past: KeyValues, position: Int[Array, ""]
    ) -> tuple[Float[Array, "B 1 C"], KeyValues]:
        """The same at one position, which sees the `past` and itself."""
        attended, past = self.sa.step(self.ln1(x), past, position)
        x = x + attended
        return x + self.ffwd(self.ln2(x)), past


class GPT(nnx.Module):
    """Token ids to logits, computed in `dtype` (None: the parameters').

    Matrices and embeddings begin as N(0, 1/C), the two that end a residual branch divided by
    sqrt(2L), biases as 0. There is no dropout on the embeddings.

    With `remat`, a block's inner arrays are computed again for its derivative instead of kept: less
    memory, about a third more work, the same result.
    """

    def __init__(
        self,
        config: GPTConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        remat: bool = False,
    ) -> None:
        if not isinstance(config, GPTConfig):
            what = type(config).__name__
            raise InputError(f"config must be a GPTConfig, as GPTConfig.lecture(); got {what}")
        check_rngs(rngs)

        def table(rows: int) -> Embedding:
            return Embedding(
                rows,
                config.n_embd,
                embedding_init=normal(init_std(config)),
                rngs=rngs,
                dtype=dtype,
                param_dtype=param_dtype,
            )

        self.token_embedding_table = table(config.vocab_size)
        self.position_embedding_table = table(config.block_size)
        self.blocks = nnx.List(
            [
                Block(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
                for _ in range(config.n_layer)
            ]
        )
        self.ln_f = layer_norm(
            config.n_embd,
            epsilon=config.layer_norm_epsilon,
            use_bias=config.norm_bias,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        self.lm_head = LanguageModelHead(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.config = config
        self.remat = remat

    @property
    def block_size(self) -> int:
        return self.config.block_size

    def embed(self, idx: Integer[Array, "B T"]) -> Float[Array, "B T C"]:
        """Token plus position embeddings, the input of the first block."""
        check_ids(idx, longest=self.config.block_size)
        length = idx.shape[1]
        positions = self.position_embedding_table(jnp.arange(length))
        return add_to_all(self.token_embedding_table(idx), positions)

    def hidden(self, idx: Integer[Array, "B T"]) -> Float[Array, "B T C"]:
        """What the output matrix is applied to: the last norm's output."""
        x = self.embed(idx)
        for block in self.blocks:
            x = _computed_again(block, x) if self.remat else block(x)
        return self.ln_f(x)

    def __call__(self, idx: Integer[Array, "B T"]) -> Float[Array, "B T V"]:
        """Logits in at least float32; NaN where an id is outside the vocabulary."""
        return self._logits(self.hidden(idx))

    def loss_sum(
        self, idx: Integer[Array, "B T"], targets: Integer[Array, "B T"]
    ) -> tuple[Float[Array, ""], Int[Array, ""]]:
        """`next_token_loss_sum` of the logits, which are never all held if they are very many."""
        check_pairs(idx, targets)
        in_parts = needs_parts(idx.size, self.config.vocab_size)
        if not in_parts or not isinstance(self.lm_head, LanguageModelHead):
            return next_token_loss_sum(self(idx), targets)
        return self.lm_head.loss_sum(self.hidden(idx), targets, *self._tied_matrix())

    def attention_weights(self, idx: Integer[Array, "B T"]) -> Float[Array, "L B H T T"]:
        """The weights of every layer and head, before dropout; rows sum to 1."""
        x = self.embed(idx)
        weights = []
        for block in self.blocks:
            weights.append(block.sa.weights(block.ln1(x)))
            x = block(x)
        return jnp.stack(weights)

    def prefill(self, idx: Integer[Array, "B T"]) -> Cache:
        """Every layer's keys and values [B H T K] of the positions from 0 on."""
        x = self.embed(idx)
        cache = []
        for block in self.blocks:
            cache.append(block.sa.keys_values(block.ln1(x)))
            x = block(x)
        return tuple(cache)

    def step(
        self, idx: Integer[Array, "B 1"], cache: Cache, position: Int[Array, ""]
    ) -> tuple[Float[Array, "B 1 V"], Cache]:
        """The logits at `position`, whose token is `idx`, and the cache with that position."""
        x = self.token_embedding_table(idx) + self.position_embedding_table(position[None])
        layers = []
        for block, past in zip(self.blocks, cache, strict=True):
            x, past = block.step(x, past, position)
            layers.append(past)
        return self._logits(self.ln_f(x)), tuple(layers)

    def _logits(self, hidden: Float[Array, "B T C"]) -> Float[Array, "B T V"]:
        return self.lm_head(hidden, *self._tied_matrix())

    def _tied_matrix(self) -> tuple[Float[Array, "V C"], ...]:
        # Not the module: what walks through modules calls each with arrays (`nnx.tabulate`).
        # Nothing where it is not needed: an untied head can be replaced by any module.
        return (self.token_embedding_table.embedding[...],) if self.config.tie_embeddings else ()


class LanguageModelHead(nnx.Module):
    """The product with the output matrix, its own or the token embedding's, and maybe a bias.

    One without a matrix of its own is given the embedding's, `tied`, at every call.
    """

    def __init__(
        self,
        config: GPTConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
    ) -> None:
        shape = (config.n_embd, config.vocab_size)
        self.kernel: nnx.Param[jax.Array] | None = nnx.data(None)
        self.bias: nnx.Param[jax.Array] | None = nnx.data(None)
        if not config.tie_embeddings:
            self.kernel = nnx.Param(normal(init_std(config))(rngs.params(), shape, param_dtype))
        if config.head_bias:
            self.bias = nnx.Param(zeros(rngs.params(), shape[1:], param_dtype))
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "B T C"], tied: Float[Array, "V C"] | None = None
    ) -> Float[Array, "B T V"]:
        if self.kernel is None:
            product, matrix = matmul_rows, _given(tied)
        else:
            product, matrix = matmul, self.kernel[...]
        dtype = self._compute_dtype(x, matrix)
        # The loss is taken in at least float32, so the product is not rounded to bfloat16 first.
        wide = jnp.promote_types(dtype, jnp.float32)
        logits: jax.Array = product(x.astype(dtype), matrix.astype(dtype), wide)
        return logits if self.bias is None else logits + self.bias[...].astype(logits.dtype)

    def loss_sum(
        self,
        x: Float[Array, "B T C"],
        targets: Integer[Array, "B T"],
        tied: Float[Array, "V C"] | None = None,
    ) -> tuple[Float[Array, ""], Int[Array, ""]]:
        """`next_token_loss_sum` of the logits, a part of them at a time."""
        matrix = _given(tied).T if self.kernel is None else self.kernel[...]
        dtype = self._compute_dtype(x, matrix)
        bias = None if self.bias is None else self.bias[...]
        return chunked_loss_sum(x.astype(dtype), matrix.astype(dtype), bias, targets)

    def _compute_dtype(self, x: Array, matrix: Array) -> DTypeLike:
        return jnp.promote_types(x.dtype, matrix.dtype) if self.dtype is None else self.dtype


def _given(tied: Array | None) -> Array:
    if tied is None:
        raise ValueError(
            "this head shares the token embedding's matrix; give it as its second argument"
        )
    return tied


def init_std(config: GPTConfig) -> float:
    """1/sqrt(C). The lecture and GPT-2 take 0.02 at any width, which is slow in small models.

    The `mini` preset ends at validation loss 1.86 with this and at 1.97 with 0.02.
    """
    return config.n_embd**-0.5


def residual_std(config: GPTConfig) -> float:
    """GPT-2's rule, so that the residual stream does not grow with depth: 2 branches a layer."""
    return init_std(config) / (2 * config.n_layer) ** 0.5


def _computed_again(block: Block, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
    """`block(x)`, of which nothing is kept for the derivative.

    nnx.remat carries the streams of dropout out of the block. It sets every other variable too,
    which it may not where the model is one of a surrounding function's: without dropout, JAX's own.
    """
    drops = any(
        not module.deterministic and module.rate > 0
        for _, module in nnx.iter_modules(block)
        if isinstance(module, nnx.Dropout)
    )
    if drops:
        return nnx.remat(Block.__call__)(block, x)
    return jax.checkpoint(block)(x)

"""Twin modules: one of `torch_ref`, one of `jax_attn`, to be filled with the same random weights.

Every parameter is random, biases and norms too, so that none can be dropped unseen; the sizes are
different primes or products of them, so that no two axes can be confused unseen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from jax.typing import DTypeLike
from numpy.typing import NDArray
from torch import nn

import jax_attn
import torch_ref
from parity_tests.suite.programs import templates
from parity_tests.suite.tiers import Function

B, T, H, K, V = 2, 7, 3, 5, 11
C = H * K
S = 4  # key/value positions in cross-attention
L = 2
BLOCK = 13  # more than T: a mask or a position table cut at the wrong end shows

Weights = dict[str, NDArray[np.float64]]
Observer = Callable[[Any, Any], Any]  # takes a module and the arrays, gives a tree of arrays

# The shapes a GPT comes in. C = 15 and 4C = 60 are the same in all, so that programs are shared.
STYLES: dict[str, dict[str, Any]] = {
    "lecture": {},
    "gpt2": {
        "activation": "gelu_tanh",
        "qkv_bias": True,
        "tie_embeddings": True,
        "head_bias": False,
    },
    # nanoGPT's without biases, with the scale of the lecture notebook's last cell.
    "bare": {
        "activation": "gelu",
        "tie_embeddings": True,
        "head_bias": False,
        "linear_bias": False,
        "norm_bias": False,
        "attention_scale": C**-0.5,
    },
}


@dataclass(frozen=True)
class Pair:
    """How to make a module of the reference and its twin in the port."""

    make_reference: Callable[[], nn.Module]
    make_port: Callable[[nnx.Rngs, DTypeLike], nnx.Module]

    def functions(
        self,
        observe: Observer,
        observe_port: Observer | None = None,
    ) -> tuple[Function, Function]:
        """Two functions of {"weights": ..., ...}: build the module, then `observe(module, arrays)`.

        One `observe` does where both modules have the same methods.
        """
        observe_port = observe_port or observe
        return (
            lambda arrays: observe(self.reference(arrays["weights"]), arrays),
            lambda arrays: observe_port(self.port(arrays["weights"]), arrays),
        )

    def weights(self, rng: np.random.Generator) -> Weights:
        """Random values for every parameter, by the reference's names; activations are O(1-10)."""
        reference = self.make_reference()
        return {
            name: random_parameter(name, tuple(parameter.shape), rng)
            for name, parameter in reference.named_parameters()
        }

    def reference(self, weights: Mapping[str, torch.Tensor]) -> Any:
        """The torch module with these weights, in their dtype, dropout off."""
        dtype = next(iter(weights.values())).dtype
        module = self.make_reference().to(dtype).eval()
        tied = {"lm_head.weight": weights["token_embedding_table.weight"]} if _tied(module) else {}
        module.load_state_dict({**dict(module.named_buffers()), **weights, **tied})
        return module

    def port(self, weights: Mapping[str, jax.Array], *, real_streams: bool = False) -> Any:
        """The NNX module with these weights, in their dtype.

        Its parameters begin as NaN, not as random numbers: that is faster to compile, and one that
        the bridge leaves unfilled is not overlooked. Its dropout streams all have one key, unless
        the real ones are asked for.
        """
        dtype = next(iter(weights.values())).dtype

        def make() -> nnx.Module:
            return self.make_port(nnx.Rngs(0), dtype)

        if (self, str(dtype)) not in templates:
            templates[self, str(dtype)] = nnx.split(nnx.eval_shape(make), nnx.RngState, ...)
        graphdef, streams, shapes = templates[self, str(dtype)]
        if real_streams:
            streams = jax.jit(lambda: nnx.split(make(), nnx.RngState, ...)[1])()
        else:
            streams = jax.tree.map(_any_stream, streams)
        nothing = jax.tree.map(lambda s: jnp.asarray(np.full(s.shape, np.nan, s.dtype)), shapes)
        module = nnx.merge(graphdef, streams, nothing)
        given = {name: np.asarray(value) for name, value in weights.items()}
        if isinstance(module, jax_attn.GPT) and module.config.tie_embeddings:
            given["lm_head.weight"] = given["token_embedding_table.weight"]
        return jax_attn.load_state_dict(module, given)


@cache
def head(in_features: int = C, head_size: int = K, **options: Any) -> Pair:
    """A lone head; `options` are `causal`, `scale`."""
    return Pair(
        lambda: torch_ref.Head(in_features, head_size, BLOCK, **options),
        lambda rngs, dtype: jax_attn.Head(
            in_features, head_size, rngs=rngs, param_dtype=dtype, **options
        ),
    )


@cache
def multi_head(n_embd: int = C, n_head: int = H, dropout: float = 0.0, **options: Any) -> Pair:
    """Per-head reference against fused port.

    `options` are `causal`, `qkv_bias`, `proj_bias`, `scale`.
    """
    return Pair(
        lambda: torch_ref.MultiHeadAttention(n_embd, n_head, BLOCK, dropout, **options),
        lambda rngs, dtype: jax_attn.MultiHeadAttention(
            n_embd, n_head, dropout_rate=dropout, rngs=rngs, param_dtype=dtype, **options
        ),
    )


@cache
def feed_forward(activation: str = "relu", dropout: float = 0.0) -> Pair:
    config = gpt_config(activation=activation, dropout_rate=dropout)
    return Pair(
        lambda: torch_ref.FeedForward(C, dropout, activation),
        lambda rngs, dtype: jax_attn.FeedForward(config, rngs=rngs, param_dtype=dtype),
    )


@cache
def block(style: str = "lecture", dropout: float = 0.0) -> Pair:
    config = gpt_config(**STYLES[style], dropout_rate=dropout)
    return Pair(
        lambda: torch_ref.Block(
            C,
            H,
            BLOCK,
            dropout,
            config.activation,
            config.qkv_bias,
            linear_bias=config.linear_bias,
            norm_bias=config.norm_bias,
            attention_scale=config.attention_scale,
        ),
        lambda rngs, dtype: jax_attn.Block(config, rngs=rngs, param_dtype=dtype),
    )


@cache
def bigram() -> Pair:
    return Pair(
        lambda: torch_ref.BigramLanguageModel(V),
        lambda rngs, dtype: jax_attn.BigramLanguageModel(V, rngs=rngs, param_dtype=dtype),
    )


@cache
def single_head() -> Pair:
    return Pair(
        lambda: torch_ref.SingleHeadLanguageModel(V, BLOCK, C, K),
        lambda rngs, dtype: jax_attn.SingleHeadLanguageModel(
            V, BLOCK, C, K, rngs=rngs, param_dtype=dtype
        ),
    )


@cache
def gpt(style: str = "lecture", compute_dtype: DTypeLike | None = None, **overrides: Any) -> Pair:
    """`overrides` are fields of GPTConfig; `compute_dtype` is the port's alone."""
    config = gpt_config(**(STYLES[style] | overrides))
    return Pair(
        lambda: torch_ref.GPTLanguageModel(
            vocab_size=config.vocab_size,
            block_size=config.block_size,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_embd=config.n_embd,
            dropout=config.dropout_rate,
            activation=config.activation,
            qkv_bias=config.qkv_bias,
            tie_embeddings=config.tie_embeddings,
            head_bias=config.head_bias,
            layer_norm_epsilon=config.layer_norm_epsilon,
            linear_bias=config.linear_bias,
            norm_bias=config.norm_bias,
            attention_scale=config.attention_scale,
            n_inner=config.n_inner,
        ),
        lambda rngs, dtype: jax_attn.GPT(config, rngs=rngs, dtype=compute_dtype, param_dtype=dtype),
    )


def gpt_config(**overrides: Any) -> jax_attn.GPTConfig:
    fields: dict[str, Any] = {"vocab_size": V, "block_size": BLOCK}
    fields |= {"n_layer": L, "n_head": H, "n_embd": C}
    return jax_attn.GPTConfig(**(fields | overrides))


def tokens(rng: np.random.Generator, *shape: int, vocab_size: int = V) -> NDArray[np.int32]:
    return rng.integers(0, vocab_size, shape, dtype=np.int32)


def _any_stream(shape: jax.ShapeDtypeStruct) -> jax.Array:
    """A key, or the count of keys drawn from it."""
    is_key = jnp.issubdtype(shape.dtype, jax.dtypes.prng_key)
    return jax.random.key(0) if is_key else jnp.zeros(shape.shape, shape.dtype)


def _tied(module: nn.Module) -> bool:
    return isinstance(module, torch_ref.GPTLanguageModel) and (
        module.lm_head.weight is module.token_embedding_table.weight
    )


def random_parameter(
    name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Matrices of variance 1/fan_in, tables of 1, biases of 1/4, norms' scales of both signs."""
    if len(shape) == 2:
        # GPT-2's Conv1D holds [in, out], which its names tell as little as these tell Linear's; a
        # factor of two in some matrices does no harm.
        fan_in = 1 if "embedding" in name or ".wte." in name or ".wpe." in name else shape[1]
        return rng.normal(size=shape) / fan_in**0.5
    if name.endswith("bias"):
        return rng.normal(size=shape) * 0.5
    return rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape)  # a norm's scale

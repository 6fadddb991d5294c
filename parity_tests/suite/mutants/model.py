"""Faults of activations, norms, embeddings, and of how layers are put together."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jax_attn.models import bigram, gpt, single_head
from jax_attn.nn import averaging, layers
from jax_attn.nn.ops import look_up, normalize, products
from parity_tests.suite.mutants.planting import (
    Mutant,
    Plant,
    derivative,
    edited,
    item,
    patched,
)

BLOCK = f"{gpt.__name__}:Block.__call__"
GPT = f"{gpt.__name__}:GPT"
OUTPUT = f"{gpt.__name__}:LanguageModelHead.__call__"
NORM = f"{layers.__name__}:layer_norm"
BIGRAM_LOSS = f"{bigram.__name__}:BigramLanguageModel.loss_sum"
EMBEDDING = f"{look_up.__name__}:_rows"
ACTIVATIONS = f"{layers.__name__}:ACTIVATIONS"
AVERAGES = f"{averaging.__name__}:averaging_weights"


def _norm_mutant(name: str, description: str, plant: Plant) -> Mutant:
    return Mutant(name, "activation and norm", description, "primitives", plant)


def _model_mutant(name: str, description: str, plant: Plant, caught_by: str = "gpt") -> Mutant:
    return Mutant(name, "model", description, caught_by, plant)


def odd_norm(compute: Callable[[Any, Any, Any, float], Any]) -> Plant:
    """A layer norm that is `compute(x, scale, bias, epsilon)`."""

    def call(self: Any, x: Any, **_: Any) -> Any:
        return compute(x, self.scale[...], self.bias[...], self.epsilon)

    return patched(f"{layers.__name__}:LayerNorm.__call__", call)


def _normal(x: Any, epsilon: float) -> Any:
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + epsilon)


def _outside(x: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    return (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + epsilon) * scale + bias


def _unbiased(x: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    deviation = jnp.sqrt(x.var(-1, keepdims=True, ddof=1) + epsilon)
    return (x - x.mean(-1, keepdims=True)) / deviation * scale + bias


def _root_mean_square(x: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * scale + bias


MUTANTS = [
    _norm_mutant(
        "tanh GELU for the exact one",
        "jax.nn.gelu's default",
        item(ACTIVATIONS, "gelu", jax.nn.gelu),
    ),
    _norm_mutant(
        "exact GELU for GPT-2's",
        "erf in the place of tanh",
        item(ACTIVATIONS, "gelu_tanh", lambda x: jax.nn.gelu(x, approximate=False)),
    ),
    _norm_mutant(
        "quick GELU",
        "x sigmoid(1.702 x)",
        item(ACTIVATIONS, "gelu", lambda x: x * jax.nn.sigmoid(1.702 * x)),
    ),
    _norm_mutant(
        "leaky ReLU", "a slope of 0.01 below 0", item(ACTIVATIONS, "relu", jax.nn.leaky_relu)
    ),
    _norm_mutant("epsilon 1e-6", "flax's default", edited(NORM, "epsilon=epsilon", "epsilon=1e-6")),
    _norm_mutant(
        "fast variance",
        "mean(x²) - mean(x)², flax's default",
        derivative(
            f"{normalize.__name__}:normalize",
            "_forward",
            "(centered * centered).mean(axis=-1, keepdims=True)",
            "(wide * wide).mean(axis=-1, keepdims=True) - mean * mean",
        ),
    ),
    _norm_mutant("epsilon outside the root", "sqrt(var) + eps", odd_norm(_outside)),
    _norm_mutant("unbiased variance", "divided by C - 1", odd_norm(_unbiased)),
    _norm_mutant("no mean", "RMSNorm", odd_norm(_root_mean_square)),
    _norm_mutant(
        "norm without scale", "scale unread", odd_norm(lambda x, s, b, e: _normal(x, e) + b)
    ),
    _norm_mutant(
        "norm without bias", "bias unread", odd_norm(lambda x, s, b, e: _normal(x, e) * s)
    ),
    _norm_mutant(
        "scale plus one",
        "1 + scale, as some models keep it",
        odd_norm(lambda x, s, b, e: _normal(x, e) * (1 + s) + b),
    ),
    _norm_mutant(
        "ids clamped",
        "an id outside the table reads its last row",
        edited(EMBEDDING, 'mode="fill"', 'mode="clip"'),
    ),
    _norm_mutant(
        "negative ids wrap",
        "-1 reads the last row",
        edited(EMBEDDING, "wrap_negative_indices=False", "wrap_negative_indices=True"),
    ),
    _model_mutant(
        "post-norm",
        "norm(x + attention(x))",
        edited(BLOCK, "x = x + self.sa(self.ln1(x))", "x = self.ln1(x + self.sa(x))"),
        "block",
    ),
    _model_mutant(
        "no second residual",
        "the feed-forward's output alone",
        edited(BLOCK, "return x + self", "return self"),
        "block",
    ),
    _model_mutant(
        "one norm for both branches",
        "ln1 before the feed-forward",
        edited(BLOCK, "self.ffwd(self.ln2(x))", "self.ffwd(self.ln1(x))"),
        "block",
    ),
    _model_mutant(
        "no norm before attention",
        "sa(x)",
        edited(BLOCK, "self.sa(self.ln1(x))", "self.sa(x)"),
        "block",
    ),
    _model_mutant(
        "parallel branches",
        "the feed-forward reads what attention read",
        edited(
            BLOCK,
            "x = x + self.sa(self.ln1(x))\n    return x + ",
            "return x + self.sa(self.ln1(x)) + ",
        ),
        "block",
    ),
    _model_mutant(
        "feed-forward without its last bias",
        "net.2.bias unread",
        edited(
            f"{gpt.__name__}:FeedForward.__call__",
            "return self.dropout(self.contract(",
            "return self.dropout(-self.contract.bias[...] + self.contract(",
        ),
        "block",
    ),
    _model_mutant("no final norm", "ln_f unused", edited(f"{GPT}.hidden", "self.ln_f(x)", "x")),
    _model_mutant(
        "positions from 1",
        "off by one",
        edited(f"{GPT}.embed", "jnp.arange(length)", "jnp.arange(1, length + 1)"),
    ),
    _model_mutant(
        "positions from the end",
        "the newest token is at 0",
        edited(f"{GPT}.embed", "jnp.arange(length)", "jnp.arange(length)[::-1]"),
    ),
    _model_mutant(
        "embedding times sqrt(C)",
        "as in the first transformer",
        edited(
            f"{GPT}.embed",
            "add_to_all(self.token_embedding_table(idx)",
            "add_to_all(self.config.n_embd**0.5 * self.token_embedding_table(idx)",
        ),
    ),
    _model_mutant(
        "layers in reverse",
        "the last block first",
        edited(f"{GPT}.hidden", "in self.blocks", "in reversed(self.blocks)"),
    ),
    _model_mutant(
        "first block for all",
        "weights shared by mistake",
        edited(f"{GPT}.hidden", "else block(x)", "else self.blocks[0](x)"),
    ),
    _model_mutant(
        "weights shown are not those used",
        "attention_weights forgets the norm",
        edited(f"{GPT}.attention_weights", "block.sa.weights(block.ln1(x))", "block.sa.weights(x)"),
    ),
    _model_mutant(
        "logits without bias",
        "lm_head.bias unread",
        edited(OUTPUT, "self.bias is None", "True"),
    ),
    _model_mutant(
        "logits rounded",
        "to bfloat16, before the loss",
        edited(
            OUTPUT,
            "return logits if",
            "logits = logits.astype(jnp.bfloat16).astype(wide)\n    return logits if",
        ),
    ),
    _model_mutant(
        "a part of a row's product left out",
        "an eighth of the channels, for one row and a large kernel",
        edited(f"{products.__name__}:row_product", "parts.sum(axis=0)", "parts[1:].sum(axis=0)"),
        "primitives",
    ),
    _model_mutant(
        "bigram table transposed",
        "what precedes, not what follows; the table is square",
        edited(
            f"{bigram.__name__}:BigramLanguageModel.__call__",
            "self.token_embedding_table(idx)",
            "self.token_embedding_table.embedding[...].T[idx]",
        ),
        "bigram",
    ),
    _model_mutant(
        "bigram losses down the columns",
        "each pair's loss from what precedes, normalised over axis 0",
        edited(BIGRAM_LOSS, "log_softmax(wide)", "log_softmax(wide, axis=0)"),
        "bigram",
    ),
    _model_mutant(
        "bigram loss of ignored targets",
        "-1 counts as token 0",
        edited(BIGRAM_LOSS, "jnp.where(counted, looked_up, 0)", "looked_up"),
        "loss",
    ),
    _model_mutant(
        "single head without positions",
        "tokens alone",
        edited(
            f"{single_head.__name__}:SingleHeadLanguageModel._embed",
            "jnp.arange(idx.shape[1])",
            "0 * jnp.arange(idx.shape[1])",
        ),
        "bigram",
    ),
    _model_mutant(
        "mean over all T",
        "1/T for 1/(t+1)",
        edited(AVERAGES, "tril.sum(axis=1, keepdims=True)", "length"),
        "averaging",
    ),
    _model_mutant(
        "means down the columns",
        "normalised over axis 0",
        edited(AVERAGES, "axis=1", "axis=0"),
        "averaging",
    ),
    _model_mutant(
        "mean of the past without the present",
        "x[:t] for x[:t+1]",
        edited(f"{averaging.__name__}:running_mean_loop", ": t + 1]", ": max(t, 1)]"),
        "averaging",
    ),
]

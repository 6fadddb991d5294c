"""Faults of the loss, its means over a text, and of gradients where the forward pass is right."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from jax_attn.models import gpt
from jax_attn.nn import attention, blocked, chunked_loss, layers, loss
from jax_attn.nn.ops import add_to_all, normalize, products
from jax_attn.training import evaluation, step
from parity_tests.suite.mutants.model import odd_norm
from parity_tests.suite.mutants.planting import (
    Mutant,
    Plant,
    derivative,
    edited,
    item,
    noted,
    patched,
)

SUM = f"{loss.__name__}:next_token_loss_sum"
PASSES = f"{loss.__name__}:_sums_in_passes"
MEAN = f"{loss.__name__}:next_token_loss"
NORM_ON_CPU = f"{normalize.__name__}:_on_cpu"
BLOCKS = f"{blocked.__name__}:_backward"
GRADIENTS = f"{step.__name__}:loss_and_gradients"
EVALUATE = f"{evaluation.__name__}:evaluate"


def _loss_mutant(name: str, description: str, plant: Plant, equivalent: str = "") -> Mutant:
    return Mutant(name, "loss", description, "loss", plant, equivalent)


def _gradient_mutant(name: str, description: str, plant: Plant) -> Mutant:
    return Mutant(name, "gradient", description, "gradients", plant)


def in_loss(old: str, new: str, part: str = "_loss_sum_forward") -> Plant:
    return derivative(f"{loss.__name__}:_loss_sum", part, old, new)


def mean_of_row_means(logits: Any, targets: Any) -> Any:
    losses = -jnp.take_along_axis(
        jax.nn.log_softmax(logits), jnp.maximum(targets, 0)[..., None], axis=-1
    )[..., 0]
    counted = targets != -1
    rows = jnp.where(counted, losses, 0).sum(-1) / counted.sum(-1)
    return rows.mean()


def scattered(self: Any, inputs: Any, out_sharding: Any = None) -> Any:
    """Embedding whose gradient overwrites where an id occurs again."""

    @jax.custom_vjp
    def rows(table: Any) -> Any:
        return table.at[inputs].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    def backward(table: Any, cotangent: Any) -> Any:
        return (jnp.zeros_like(table).at[inputs].set(cotangent),)

    rows.defvjp(lambda table: (rows(table), table), backward)
    return rows(self.embedding[...].astype(self.dtype))


def backward_product(change: Callable[[Any, Any], tuple[Any, Any]]) -> Plant:
    """The derivative of the matrix product with `change(dx, dkernel)` at its end."""

    @contextmanager
    def plant() -> Iterator[None]:
        def backward(out_dtype: Any, saved: Any, dy: Any) -> Any:
            return change(*products._matmul_backward(out_dtype, saved, dy))

        products.matmul.defvjp(products._matmul_forward, backward)
        try:
            with noted(f"{products.__name__}:_matmul_backward"):
                yield
        finally:
            products.matmul.defvjp(products._matmul_forward, products._matmul_backward)

    return plant


def _frozen_deviation(x: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    deviation = jax.lax.stop_gradient(jnp.sqrt(x.var(-1, keepdims=True) + epsilon))
    return (x - x.mean(-1, keepdims=True)) / deviation * scale + bias


MUTANTS = [
    _loss_mutant(
        "-1 is the last class",
        "an ignored target counts as class V - 1",
        in_loss("targets != IGNORE", "targets >= IGNORE"),
    ),
    _loss_mutant(
        "ignored targets in the denominator",
        "mean over all, not over those that count",
        edited(SUM, "(targets != IGNORE).sum(dtype=jnp.int32)", "jnp.int32(targets.size)"),
    ),
    _loss_mutant(
        "mean of row means", "rows of few targets weigh more", patched(MEAN, mean_of_row_means)
    ),
    _loss_mutant("sum for mean", "not divided", edited(MEAN, "total / count", "total")),
    _loss_mutant("bits", "log2 for log", in_loss("jnp.log(", "jnp.log2(")),
    _loss_mutant(
        "loss in bfloat16",
        "logits rounded on the way in",
        edited(SUM, "logits.astype(", "logits.astype(jnp.bfloat16).astype("),
    ),
    _loss_mutant(
        "no maximum",
        "exp(logits) overflows",
        edited(PASSES, "wide.max(axis=-1)", "jnp.zeros(wide.shape[:-1])"),
    ),
    _loss_mutant(
        "difference of large numbers",
        "log(sum(exp)) with the maximum back on: a sure prediction's loss is lost in rounding",
        in_loss("jnp.log(total) - (chosen - top)", "(jnp.log(total) + top) - chosen"),
    ),
    _loss_mutant(
        "label smoothing",
        "a tenth of the weight on all classes",
        in_loss("(chosen - top)", "(0.9 * chosen + 0.1 * wide.mean(-1) - top)"),
    ),
    _loss_mutant(
        "targets clamped",
        "one outside the vocabulary counts as its last token",
        edited(PASSES, 'mode="fill", fill_value=jnp.nan', 'mode="clip"'),
    ),
    _loss_mutant(
        "mean of the parts' means",
        "accumulation gives a part with few targets the weight of a full one",
        edited(
            GRADIENTS,
            "total / n_counted",
            "total / (part[1] != IGNORE).sum() / accumulate_steps",
        ),
    ),
    _loss_mutant(
        "ragged end dropped",
        "evaluate leaves out what does not fill a batch",
        edited(
            EVALUATE,
            "-(-n_targets // span)",
            "n_targets // span",
        ),
    ),
    _loss_mutant(
        "padding counted",
        "evaluate takes the last token again for every place past the end",
        edited(EVALUATE, "constant_values=IGNORE", "mode='edge'"),
    ),
    _loss_mutant(
        "evaluate divides by all tokens",
        "the first token is no target",
        edited(EVALUATE, "/ n_targets)", "/ (n_targets + 1))"),
    ),
    _loss_mutant(
        "estimate from one batch",
        "estimate_loss sees the first batch again and again",
        edited(f"{evaluation.__name__}:estimate_loss", "np.int32(batch)", "np.int32(0)"),
    ),
    _loss_mutant(
        "derivative multiplied out",
        "both terms of the loss's derivative times the factor from outside, not their difference",
        in_loss(
            "dloss * (jnp.exp(wide - top[..., None]) / total[..., None] - of_target)",
            "dloss * jnp.exp(wide - top[..., None]) / total[..., None] - dloss * of_target",
            "_loss_sum_backward",
        ),
        equivalent="another order of the same products, within rounding",
    ),
    _gradient_mutant(
        "half a gradient at 0",
        "maximum(x, 0) for ReLU",
        item(f"{layers.__name__}:ACTIVATIONS", "relu", lambda x: jnp.maximum(x, 0)),
    ),
    _gradient_mutant(
        "repeated ids overwrite",
        "the embedding's gradient is set, not added",
        patched(f"{layers.__name__}:Embedding.__call__", scattered),
    ),
    _gradient_mutant(
        "blocks: softmax's mean left out",
        "weights * dweights, as if the weights of a row did not sum to 1",
        edited(BLOCKS, "(dweights - mean[..., start:stop, :])", "dweights"),
    ),
    _gradient_mutant(
        "blocks: scale left out backward",
        "the gradients of queries and keys are too large",
        edited(BLOCKS, "mean[..., start:stop, :]) * scale", "mean[..., start:stop, :])"),
    ),
    _gradient_mutant(
        "blocks: sequences out of order",
        "what is taken a few at a time is taken with another one's last array",
        edited(
            f"{blocked.__name__}:_by_groups",
            "function(*part)",
            "function(*part[:-1], part[-1][::-1])",
        ),
    ),
    _gradient_mutant(
        "parts: loss derivative not scaled",
        "the gradient of a sum where that of a mean is due",
        derivative(
            f"{chunked_loss.__name__}:_loss_in_parts", "_backward", "(dmatrix * scaled)", "dmatrix"
        ),
    ),
    _gradient_mutant(
        "loss: derivative not normalized",
        "exp(logits) for their softmax",
        in_loss(" / total[..., None]", "", "_loss_sum_backward"),
    ),
    _gradient_mutant(
        "loss: ignored targets pull",
        "the derivative leaves out nothing",
        in_loss("targets != IGNORE", "targets == targets", "_loss_sum_backward"),
    ),
    _gradient_mutant(
        "norm: mean left in",
        "the derivative keeps what a shift of the row would take",
        edited(NORM_ON_CPU, " - mean_times_scale(dy)", ""),
    ),
    _gradient_mutant(
        "norm: stretch left in",
        "the derivative keeps what a stretch of the row would take",
        edited(NORM_ON_CPU, " - normal_x * mean_times_scale(weighted)", ""),
    ),
    _gradient_mutant(
        "norm: means without the scale",
        "both means taken before the scale",
        edited(NORM_ON_CPU, "scale.astype(rows.dtype)", "jnp.ones_like(scale, rows.dtype)"),
    ),
    _loss_mutant(
        "parts: added columns weigh",
        "logits of 0 for the ids that pad the vocabulary",
        edited(
            f"{chunked_loss.__name__}:_part_loss",
            "logits, -jnp.inf)",
            "logits, 0)",
        ),
    ),
    _gradient_mutant(
        "tied gradient counted once",
        "none through the output matrix",
        edited(
            f"{gpt.__name__}:LanguageModelHead.__call__",
            "matmul_rows, _given(tied)",
            "matmul_rows, jax.lax.stop_gradient(_given(tied))",
        ),
    ),
    _gradient_mutant(
        "untied",
        "the output matrix is a parameter of its own that begins the same",
        edited(f"{gpt.__name__}:LanguageModelHead.__init__", "not config.tie_embeddings", "True"),
    ),
    _gradient_mutant(
        "weights held fast",
        "stop_gradient on wei",
        edited(
            f"{attention.__name__}:attention_weights",
            "jax.nn.softmax(scores, axis=axis)",
            "jax.lax.stop_gradient(jax.nn.softmax(scores, axis=axis))",
        ),
    ),
    _gradient_mutant(
        "positions held fast",
        "stop_gradient on the position embedding",
        edited(
            f"{gpt.__name__}:GPT.embed",
            "self.position_embedding_table(jnp.arange(length))",
            "jax.lax.stop_gradient(self.position_embedding_table(jnp.arange(length)))",
        ),
    ),
    _gradient_mutant(
        "positions learn from the first row",
        "the position table's gradient is that of one row of the batch",
        derivative(
            f"{add_to_all.__name__}:add_to_all",
            "_add_to_all_backward",
            "functools.reduce(jnp.add, rows)",
            "rows[0]",
        ),
    ),
    _gradient_mutant(
        "branch held fast",
        "no gradient into what attention reads",
        edited(
            f"{gpt.__name__}:Block.__call__",
            "self.sa(self.ln1(x))",
            "self.sa(jax.lax.stop_gradient(self.ln1(x)))",
        ),
    ),
    _gradient_mutant(
        "deviation held fast",
        "layer norm's gradient without the term of its variance",
        odd_norm(_frozen_deviation),
    ),
    _gradient_mutant(
        "-inf added",
        "scores + log(mask): a row that sees nothing has a gradient of NaN",
        edited(
            f"{attention.__name__}:attention_weights",
            "jnp.where(mask, scores, -jnp.inf)",
            "scores + jnp.log(mask.astype(scores.dtype))",
        ),
    ),
    _gradient_mutant(
        "mean over the batch",
        "a matrix's gradient divided by the number of rows",
        backward_product(lambda dx, dkernel: (dx, dkernel / 2)),
    ),
    _gradient_mutant(
        "gradient in bfloat16",
        "what goes back through a matrix product is rounded",
        backward_product(lambda dx, dk: (dx.astype(jnp.bfloat16).astype(dx.dtype), dk)),
    ),
    _gradient_mutant(
        "gradient of the sum",
        "the loss is a mean, its gradient is not divided",
        edited(
            GRADIENTS,
            "return loss, grads, rest",
            "return loss, jax.tree.map(lambda g: g * n_counted, grads), rest",
        ),
    ),
    _gradient_mutant(
        "straight through",
        "ReLU's gradient is 1 everywhere",
        item(
            f"{layers.__name__}:ACTIVATIONS",
            "relu",
            lambda x: x + jax.lax.stop_gradient(jax.nn.relu(x) - x),
        ),
    ),
]

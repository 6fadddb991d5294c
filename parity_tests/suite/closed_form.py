"""The GPT, its loss and AdamW written out in NumPy: no framework's function, nothing shared."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

erf = np.vectorize(math.erf)
ACTIVATIONS = {
    "relu": lambda x: np.where(x > 0, x, 0.0),
    "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


def running_mean(x: Array) -> Array:
    return np.cumsum(x, axis=1) / np.arange(1, x.shape[1] + 1)[None, :, None]


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).sum(axis=-1, keepdims=True) / x.shape[-1]
    return centred / np.sqrt(variance + epsilon) * scale + bias


def gpt(weights: Mapping[str, Array], idx: NDArray[Any], config: Any) -> dict[str, Any]:
    """`wei` and output of every block, and the logits; weights by the lecture's names."""

    def linear(name: str, x: Array) -> Array:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    def norm(name: str, x: Array) -> Array:
        bias = weights.get(f"{name}.bias", np.zeros(config.n_embd))
        return layer_norm(x, weights[f"{name}.weight"], bias, config.layer_norm_epsilon)

    scale = config.attention_scale or 1 / math.sqrt(config.head_size)
    length, states = idx.shape[1], {}
    future = np.triu(np.ones((length, length), bool), 1)
    x = weights["token_embedding_table.weight"][idx]
    x = x + weights["position_embedding_table.weight"][:length]
    for i in range(config.n_layer):
        seen, outputs, matrices = norm(f"blocks.{i}.ln1", x), [], []
        for h in range(config.n_head):
            head = f"blocks.{i}.sa.heads.{h}"
            scores = linear(f"{head}.query", seen) @ linear(f"{head}.key", seen).swapaxes(1, 2)
            scores = np.where(future, -np.inf, scores * scale)
            matrices.append(softmax(scores))
            outputs.append(matrices[-1] @ linear(f"{head}.value", seen))
        x = x + linear(f"blocks.{i}.sa.proj", np.concatenate(outputs, axis=-1))
        hidden = linear(f"blocks.{i}.ffwd.net.0", norm(f"blocks.{i}.ln2", x))
        x = x + linear(f"blocks.{i}.ffwd.net.2", ACTIVATIONS[config.activation](hidden))
        states |= {f"wei {i}": np.stack(matrices, axis=1), f"block {i}": x}
    x = norm("ln_f", x)
    if config.tie_embeddings:
        return states | {"logits": x @ weights["token_embedding_table.weight"].T}
    return states | {"logits": linear("lm_head", x)}


def loss(logits: Array, targets: NDArray[Any]) -> Array:
    """Mean of -log p(target) over the targets that are not -1, in nats."""
    rows, labels = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    (counted,) = np.nonzero(labels != -1)
    chosen = softmax(rows)[counted, labels[counted]]
    return np.array(-np.log(chosen).sum() / len(counted))


def adamw(
    params: Array, gradients: list[Array], rate: float, config: Any
) -> tuple[Array, Array, Array]:
    """Parameters and both moments after these gradients, from zero moments."""
    mean, square = np.zeros_like(params), np.zeros_like(params)
    for t, gradient in enumerate(gradients, start=1):
        mean = config.beta1 * mean + (1 - config.beta1) * gradient
        square = config.beta2 * square + (1 - config.beta2) * gradient**2
        direction = mean / (1 - config.beta1**t)
        direction = direction / (np.sqrt(square / (1 - config.beta2**t)) + config.epsilon)
        params = params - rate * (direction + config.weight_decay * params)
    return params, mean, square

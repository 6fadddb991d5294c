"""Whether the code that a layout's files are made for computes what a model does."""

from typing import Any

from jax_attn.config import GPTConfig
from jax_attn.errors import InputError
from jax_attn.interop.gpt2_layouts import is_mingpt
from jax_attn.interop.layouts import Layout


def require_own_code(config: GPTConfig, layout: Layout) -> None:
    """InputError unless weights of this model are the same function there, loaded strictly.

    Weights say nothing of the activation, say: that of a model with ReLU would be taken for
    nanoGPT's. What is asked of each layout is what its own classes can be told: the lecture's
    `gpt.py` and its notebook's last cell; nanoGPT and minGPT; `transformers` with its config.json.
    """
    code, allowed = _allowed(config, layout)
    for name, values in allowed.items():
        value = getattr(config, name)
        if value not in values:
            raise InputError(
                f"{code} has {name} {values[0]} and cannot be told the {value} of this model; "
                "write another layout, or a run, which holds any model"
            )


def _allowed(c: GPTConfig, layout: Layout) -> tuple[str, dict[str, tuple[Any, ...]]]:
    """Whose code it is, and the values that it has of the fields, its own first."""
    wide, scale, epsilon = (0, 4 * c.n_embd), (None, c.head_size**-0.5), (1e-5,)
    biased = {"linear_bias": (True,), "norm_bias": (True,)}
    if layout == "lecture":
        scales = (*scale, c.n_embd**-0.5)
        fields = biased | {"activation": ("relu",), "qkv_bias": (False,), "head_bias": (True,)}
        fixed = {"n_inner": wide, "attention_scale": scales, "layer_norm_epsilon": epsilon}
        return "the lecture's gpt.py", fields | fixed
    fields = {"head_bias": (False,)}
    if layout == "gpt2":
        scales = (*scale, 1.0)
        return "GPT-2", biased | fields | {"qkv_bias": (True,), "attention_scale": scales}
    fields |= {"n_inner": wide, "attention_scale": scale, "layer_norm_epsilon": epsilon}
    if is_mingpt(c):
        return "minGPT", fields | {"activation": ("gelu_tanh",)}
    biases = {"linear_bias": (c.qkv_bias,), "norm_bias": (c.qkv_bias,)}
    own = {"tie_embeddings": (True,), "activation": ("gelu",)}
    return "nanoGPT", biases | fields | own

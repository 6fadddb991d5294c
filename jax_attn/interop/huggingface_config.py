"""config.json of a Hugging Face GPT-2: all of it that changes what the model computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax_attn.config import GPTConfig
from jax_attn.errors import InputError

# Of the names in transformers' activations.py, those that are these functions.
ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
}
WRITTEN_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new"}
# Other names of a setting that transformers takes, and the field of GPTConfig.
SIZES = {
    "vocab_size": "vocab_size",
    "n_positions": "block_size",
    "max_position_embeddings": "block_size",
    "n_embd": "n_embd",
    "hidden_size": "n_embd",
    "n_layer": "n_layer",
    "num_hidden_layers": "n_layer",
    "n_head": "n_head",
    "num_attention_heads": "n_head",
    "layer_norm_epsilon": "layer_norm_epsilon",
}
# What a setting must be, for the model to be one of these. reorder_and_upcast_attn is not among
# them: it is the same function, in another order of roundings.
ONLY = {
    "scale_attn_by_inverse_layer_idx": (False, "the scale of layer i is divided by i + 1"),
    "add_cross_attention": (False, "blocks attend to an encoder, too"),
    "pruned_heads": ({}, "some heads are taken out"),
    "quantization_config": (None, "weights are quantized"),
}


def fields_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of GPTConfig. What config.json leaves out is as transformers' GPT2Config has it.

    InputError, with the name of the setting, for a model that is no GPT-2, and for one that this
    package computes otherwise.
    """
    architectures = config.get("architectures") or ["GPT2LMHeadModel"]
    kind = config.get("model_type", "gpt2" if "GPT2" in str(architectures) else None)
    if kind != "gpt2":
        raise InputError(
            f"model_type is {kind!r:.60}: only models of GPT-2's architecture are read"
        )
    for name, (needed, meaning) in ONLY.items():
        if config.get(name, needed) not in (needed, None):
            raise InputError(f"{name} is {config[name]!r:.60}: {meaning}, which is not computed")
    activation = config.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise InputError(
            f"activation_function is {activation!r:.60}; known are {', '.join(ACTIVATIONS)}"
        )
    fields = {"n_head": 12, "layer_norm_epsilon": 1e-5}
    fields |= {ours: config[name] for name, ours in SIZES.items() if name in config}
    return fields | {
        "n_inner": config.get("n_inner") or 0,
        "activation": ACTIVATIONS[activation],
        "tie_embeddings": config.get("tie_word_embeddings", True),
        "attention_scale": None if config.get("scale_attn_weights", True) else 1.0,
        "qkv_bias": True,
        "linear_bias": True,
        "norm_bias": True,
        "head_bias": False,
    }


def config_of(config: GPTConfig, end_of_text: int | None) -> dict[str, Any]:
    """What `GPT2LMHeadModel.from_pretrained` reads, for a model that it can hold."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": WRITTEN_ACTIVATIONS[config.activation],
        "attn_pdrop": config.dropout_rate,
        "bos_token_id": end_of_text,
        "embd_pdrop": 0.0,
        "eos_token_id": end_of_text,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "n_inner": config.n_inner or None,
        "n_layer": config.n_layer,
        "n_positions": config.block_size,
        "reorder_and_upcast_attn": False,
        "resid_pdrop": config.dropout_rate,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": config.attention_scale is None,
        "tie_word_embeddings": config.tie_embeddings,
        "vocab_size": config.vocab_size,
    }

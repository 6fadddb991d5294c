"""What other people's classes can hold of a model, and the state dicts that those take strictly."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from flax import nnx
from numpy.typing import NDArray

from jax_attn.config import GPTConfig
from jax_attn.errors import InputError
from jax_attn.interop.entries import Entry
from jax_attn.interop.layouts import Layout, entries_of
from jax_attn.interop.model_record import model_record
from jax_attn.interop.state_dict import to_state_dict
from jax_attn.models.gpt import GPT
from jax_attn.models.language_model import LanguageModel

# Every layout is that of a class: the lecture's GPTLanguageModel; nanoGPT's GPT, or minGPT's where
# the output matrix is not tied; GPT2LMHeadModel.
CLASSES: dict[Layout, str] = {
    "lecture": "the lecture's GPTLanguageModel",
    "nanogpt": "nanoGPT's GPT",
    "gpt2": "GPT2LMHeadModel",
}
EPSILON = 1e-5  # torch's own, which the lecture and nanoGPT leave as it is
Bias = Literal["qkv_bias", "linear_bias", "norm_bias", "head_bias"]
BIASES: dict[Bias, str] = {
    "qkv_bias": "on query, key and value",
    "linear_bias": "after attention and in the feed-forward",
    "norm_bias": "of the norms",
    "head_bias": "on the logits",
}
WITHIN: tuple[Bias, ...] = ("qkv_bias", "linear_bias", "norm_bias")


@dataclass(frozen=True)
class Held:
    """A model by the names of another class, whole."""

    record: dict[str, Any]  # its configuration, with the biases that are added
    tensors: dict[str, NDArray]
    aliases: dict[str, str] = field(default_factory=dict)  # names of one tensor of these again
    added: list[Bias] = field(default_factory=list)  # the class has them, the model not: zeros

    def written_out(self) -> dict[str, NDArray]:
        """With a tensor for every alias."""
        return self.tensors | {name: self.tensors[of] for name, of in self.aliases.items()}


def held(model: LanguageModel, layout: Layout) -> Held:
    """What the class of `layout` takes with `strict=True`, and then computes the same.

    InputError for a model that it would compute otherwise, with the targets that hold it.
    """
    problems = faults(model, layout)
    if problems:
        others = [f"--to {other}" for other in CLASSES if not faults(model, other)]
        remedy = f"{' and '.join(others) or '--to run'} can"
        if layout == "gpt2" and problems == [BIAS_ON_LOGITS]:
            remedy += "; one trained here with --model.no-head-bias can go there"
        elif layout == "nanogpt":
            remedy += "; one trained here as the preset gpt2 is can go there"
        raise InputError(f"{CLASSES[layout]} cannot hold {', '.join(problems)}; {remedy}")
    if not isinstance(model, GPT):
        return Held(model_record(model), to_state_dict(model, layout))
    return _with_biases(model, layout, _biases_of(model.config, layout))


BIAS_ON_LOGITS = "a bias on the logits"


def faults(model: LanguageModel, layout: Layout) -> list[str]:
    """What the layout's class has no place for, or does otherwise, in words."""
    if not isinstance(model, GPT):
        return [] if layout == "lecture" else [f"a {type(model).__name__}"]
    config = model.config
    plain = {
        f"a feed-forward of {config.n_inner} channels": bool(config.n_inner),
        f"layer_norm_epsilon {config.layer_norm_epsilon:g}": config.layer_norm_epsilon != EPSILON,
    }
    scale, scaled = f"attention_scale {config.attention_scale}", config.attention_scale is not None
    if layout == "lecture":
        # Its notebook's last cell has the second scale.
        scaled = config.attention_scale not in (None, config.n_embd**-0.5)
        found = plain | {
            f"activation {config.activation}": config.activation != "relu",
            "biases on query, key and value": config.qkv_bias,
            scale: scaled,
        }
    elif layout == "nanogpt":
        # nanoGPT ties its output matrix and has the exact GELU, minGPT neither.
        own = "gelu" if config.tie_embeddings else "gelu_tanh"
        tied = "a tied" if config.tie_embeddings else "an untied"
        found = plain | {
            BIAS_ON_LOGITS: config.head_bias,
            f"activation {config.activation} beside {tied} output matrix": config.activation != own,
            scale: scaled,
        }
    else:
        found = {
            BIAS_ON_LOGITS: config.head_bias,
            scale: config.attention_scale not in (None, 1.0),
        }
    return [what for what, is_fault in found.items() if is_fault]


def _biases_of(config: GPTConfig, layout: Layout) -> tuple[Bias, ...]:
    """Those that the layout's class always has."""
    if layout == "lecture":
        return ("linear_bias", "norm_bias", "head_bias")
    if layout == "nanogpt" and config.tie_embeddings:  # nanoGPT's `bias`: all or none
        return WITHIN if any(getattr(config, name) for name in WITHIN) else ()
    return WITHIN


def _with_biases(model: GPT, layout: Layout, biases: tuple[Bias, ...]) -> Held:
    """By the layout's names, zeros in the place of those `biases` that the model has not."""
    added: list[Bias] = [name for name in biases if not getattr(model.config, name)]
    config = dataclasses.replace(model.config, **{name: True for name in added})
    whole = nnx.eval_shape(lambda: GPT(config, rngs=nnx.Rngs(0)))
    own = to_state_dict(model, layout)
    token, embedding = next(iter(own.items()))  # comes first in every layout
    tensors: dict[str, NDArray] = {}
    aliases: dict[str, str] = {}
    for entry in entries_of(whole, layout):
        if not isinstance(entry, Entry):
            if (mask := entry.value()) is not None:
                tensors[entry.name] = mask
        elif entry.alias:
            aliases[entry.name] = token
        elif entry.name in own:
            tensors[entry.name] = own[entry.name]
        else:
            tensors[entry.name] = np.zeros(entry.shape, embedding.dtype)
    return Held(model_record(whole), tensors, aliases, added)

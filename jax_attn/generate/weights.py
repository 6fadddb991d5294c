"""Weights in the type that they are used in, so that no step of the loop converts them."""

import jax
from flax import nnx

from jax_attn.models.gpt import LanguageModelHead
from jax_attn.nn.key_value_cache import CachedModel
from jax_attn.nn.layers import Embedding


def cast_weights(model: CachedModel) -> None:
    """Puts matrices and tables of `model` into the type that its modules compute in.

    The results keep their bits, for each is converted before any use as it is. Layer norms and the
    bias of the logits stay as they are: they are used in float32.
    """
    assert isinstance(model, nnx.Module)
    for _, module in nnx.iter_modules(model):
        params: tuple[nnx.Param[jax.Array] | None, ...]
        match module:
            case nnx.Linear(kernel=kernel, bias=bias):
                params = kernel, bias
            case Embedding(embedding=embedding):
                params = (embedding,)
            case LanguageModelHead(kernel=kernel):
                params = (kernel,)
            case _:
                continue
        for param in params:
            if param is not None and module.dtype is not None:
                param.set_value(param[...].astype(module.dtype))

"""A causal model of transformers as `compare_decoding` takes it."""

import inspect
from typing import Any

import torch

from parity_tests.harness.decoding import Full, Step
from parity_tests.harness.record import as_torch


def transformers_decoding(model: torch.nn.Module) -> tuple[Full, Step]:
    """`full` and `step` of a transformers model: `compare_decoding(*transformers_decoding(m), …)`.

    They take arrays of either framework and give tensors. Positions are counted from the mask, as
    `model.generate` does; a fault that only its absence shows is the caller's, not the model's.
    ValueError for a model whose forward takes no cache.
    """
    taken = inspect.signature(model.forward).parameters
    # transformers 5 calls the cache what it is; before, past_key_values.
    word = next((name for name in ("cache", "past_key_values") if name in taken), None)
    if word is None:
        raise ValueError(f"{type(model).__name__}.forward takes neither cache nor past_key_values")

    def call(tokens: Any, mask: Any, **more: Any) -> Any:
        tokens, mask = as_torch(tokens).long(), as_torch(mask).long()
        if "position_ids" in taken:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            more["position_ids"] = positions[:, -tokens.shape[1] :]
        return model(input_ids=tokens, attention_mask=mask, **more)

    def full(tokens: Any, mask: Any) -> torch.Tensor:
        return call(tokens, mask, use_cache=False).logits

    def step(tokens: Any, mask: Any, cache: Any) -> tuple[torch.Tensor, Any]:
        result = call(tokens, mask, use_cache=True, **{word: cache})
        return result.logits, result[word]

    return full, step

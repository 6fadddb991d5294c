"""A model's configuration as plain JSON types."""

from __future__ import annotations

import dataclasses
from typing import Any

from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.models.gpt import GPT
from jax_attn.models.language_model import LanguageModel

KINDS = ("gpt", "head", "bigram")


def model_record(model: LanguageModel) -> dict[str, Any]:
    """Its kind, and what `model_of` takes as fields of it."""
    if isinstance(model, GPT):
        return {"kind": "gpt", **dataclasses.asdict(model.config)}
    table = model.token_embedding_table
    if isinstance(model, BigramLanguageModel):
        return {"kind": "bigram", "vocab_size": table.num_embeddings}
    return {
        "kind": "head",
        "vocab_size": table.num_embeddings,
        "block_size": model.block_size,
        "n_embd": table.features,
        "head_size": model.sa_head.key.kernel.shape[1],
    }

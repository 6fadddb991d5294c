"""Which ids a model may draw: those that stand for something."""

import numpy as np
from jaxtyping import Bool

from jax_attn.data import Tokenizer
from jax_attn.models.language_model import LanguageModel


def known_ids(tokenizer: Tokenizer, model: LanguageModel) -> Bool[np.ndarray, " V"]:
    """For `generate(allowed=…)`: those of the tokenizer, where a model may have more."""
    known = np.zeros(model.token_embedding_table.num_embeddings, np.bool_)
    known[: tokenizer.vocab_size] = tokenizer.known
    return known

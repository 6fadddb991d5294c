"""What all language models here have in common."""

import jax
from flax import nnx

from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.models.gpt import GPT
from jax_attn.models.single_head import SingleHeadLanguageModel

LanguageModel = BigramLanguageModel | SingleHeadLanguageModel | GPT


def count_parameters(model: LanguageModel) -> int:
    """Number of trainable scalars; a tied matrix counts once."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

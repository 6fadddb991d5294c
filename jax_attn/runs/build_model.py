"""From a run's configuration to a fresh model."""

import jax.numpy as jnp
from flax import nnx

from jax_attn.config import BigramShape, HeadShape, TrainConfig
from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.models.gpt import GPT
from jax_attn.models.language_model import LanguageModel
from jax_attn.models.single_head import SingleHeadLanguageModel
from jax_attn.torch_replay.dropout_tape import replay_dropout


def build_model(config: TrainConfig, vocab_size: int) -> LanguageModel:
    """The model that `config` describes, initialised from its seed; float32 parameters.

    A shape with a `vocab_size` of its own keeps it when it is the larger one.
    """
    rngs = nnx.Rngs(config.seed)
    dtype = jnp.dtype(config.dtype)
    shape = config.model
    if isinstance(shape, BigramShape):
        return BigramLanguageModel(vocab_size, rngs=rngs, dtype=dtype)
    if isinstance(shape, HeadShape):
        return SingleHeadLanguageModel(
            vocab_size, config.block_size, shape.n_embd, shape.head_size, rngs=rngs, dtype=dtype
        )
    vocab_size = max(vocab_size, shape.vocab_size)
    gpt_config = shape.gpt_config(vocab_size, config.block_size)
    model = GPT(gpt_config, rngs=rngs, dtype=dtype, remat=config.remat)
    if config.rng == "torch" and shape.dropout_rate > 0:
        replay_dropout(model)
    return model

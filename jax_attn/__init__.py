"""The "let's build GPT" lecture in JAX: the same function as the PyTorch original, and fast."""

from jax_attn.garbage_collector import collector_paused

with collector_paused():
    from jax_attn.config import GPTConfig, OptimizerConfig, TrainConfig
    from jax_attn.data import CharTokenizer, Corpus, load_corpus, load_tokenizer, make_tokenizer
    from jax_attn.errors import InputError
    from jax_attn.evaluate import evaluate
    from jax_attn.generate import generate
    from jax_attn.interop import (
        load_safetensors,
        load_state_dict,
        model_of,
        save_safetensors,
        to_state_dict,
    )
    from jax_attn.models.bigram import BigramLanguageModel
    from jax_attn.models.gpt import GPT, Block, FeedForward
    from jax_attn.models.single_head import SingleHeadLanguageModel
    from jax_attn.nn.attention import (
        Head,
        MultiHeadAttention,
        attend,
        attention_weights,
        causal_mask,
        dot_product_attention,
    )
    from jax_attn.nn.averaging import (
        averaging_weights,
        running_mean_loop,
        running_mean_matmul,
        running_mean_softmax,
        softmax_averaging_weights,
    )
    from jax_attn.nn.loss import next_token_loss
    from jax_attn.runs.presets import PRESETS
    from jax_attn.runs.source import load_model
    from jax_attn.runs.train import TrainResult, resume, train
    from jax_attn.torch_replay.random import Generator
    from jax_attn.training.batches import GivenBatches, RandomBatches
    from jax_attn.training.evaluation import estimate_loss
    from jax_attn.training.optim import learning_rate_schedule, make_optimizer
    from jax_attn.training.step import TrainState, train_chunk, train_step

_SUBMODULES = ("data", "interop", "models", "nn", "runs", "torch_replay", "training")
__all__ = [
    "GPT",
    "PRESETS",
    "BigramLanguageModel",
    "Block",
    "CharTokenizer",
    "Corpus",
    "FeedForward",
    "GPTConfig",
    "Generator",
    "GivenBatches",
    "Head",
    "InputError",
    "MultiHeadAttention",
    "OptimizerConfig",
    "RandomBatches",
    "SingleHeadLanguageModel",
    "TrainConfig",
    "TrainResult",
    "TrainState",
    "attend",
    "attention_weights",
    "averaging_weights",
    "causal_mask",
    "dot_product_attention",
    "estimate_loss",
    "evaluate",
    "generate",
    "learning_rate_schedule",
    "load_corpus",
    "load_model",
    "load_safetensors",
    "load_state_dict",
    "load_tokenizer",
    "make_optimizer",
    "make_tokenizer",
    "model_of",
    "next_token_loss",
    "resume",
    "running_mean_loop",
    "running_mean_matmul",
    "running_mean_softmax",
    "save_safetensors",
    "softmax_averaging_weights",
    "to_state_dict",
    "train",
    "train_chunk",
    "train_step",
]


def __dir__() -> list[str]:
    """What is public, and the submodules that documents name."""
    return [*__all__, *_SUBMODULES]

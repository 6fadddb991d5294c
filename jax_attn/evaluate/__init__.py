"""The loss of a model on any text, and what it comes to a character and a byte."""

# The name of this folder is that of the function, too: `jax_attn.evaluate` is the function.
from jax_attn.training.evaluation import evaluate

__all__ = ["evaluate"]

"""A lecture script's run, replayed: the weights, batches and samples that torch draws for it.

Every function advances a `Generator` as the lecture's script advances torch's. Called in the
script's order they give the script's numbers: weights, batches and dropout masks bit for bit, and
losses and sampled text as far as the arithmetic allows. Training amplifies the roundings of
float32: a trained bigram model still samples torch's text, a trained GPT does so in float64.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Integer

from jax_attn.data.mapped import Windows
from jax_attn.interop import load_state_dict, to_state_dict
from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.models.gpt import GPT
from jax_attn.models.language_model import LanguageModel
from jax_attn.models.single_head import SingleHeadLanguageModel
from jax_attn.torch_replay.dropout_tape import DropoutTape
from jax_attn.torch_replay.random import Generator
from jax_attn.training.batches import GivenBatches

ModelT = TypeVar("ModelT", bound=LanguageModel)

LECTURE_INIT_STD = 0.02  # of every matrix and embedding of the lecture's GPT


def initialise(model: ModelT, generator: Generator) -> ModelT:
    """Fills `model` with what the lecture's module of the same shape starts with; returns it.

    Construction order is draw order. The lecture's GPT draws every matrix twice: as torch's layers
    do by themselves, then again as N(0, 0.02²) in its own `_init_weights`, which zeroes the biases.
    """
    weights = to_state_dict(model, layout="lecture")
    for name, value in weights.items():
        if value.ndim == 1:  # a bias, or the scale of a norm
            weights[name] = np.full(value.shape, name.endswith(".weight"), np.float32)
    names = _layers_in_construction_order(model)
    for name in names:
        rows, columns = weights[f"{name}.weight"].shape
        if name.endswith("embedding_table"):
            weights[f"{name}.weight"] = generator.embedding(rows, columns)
        else:
            has_bias = f"{name}.bias" in weights
            weight, bias = generator.linear(columns, rows, has_bias)
            weights[f"{name}.weight"] = weight
            if bias is not None and not isinstance(model, GPT):
                weights[f"{name}.bias"] = bias
    if isinstance(model, GPT):
        for name in names:
            shape = weights[f"{name}.weight"].shape
            weights[f"{name}.weight"] = generator.normal(0.0, LECTURE_INIT_STD, shape)
        if model.config.tie_embeddings:
            weights["lm_head.weight"] = weights["token_embedding_table.weight"]
    return load_state_dict(model, weights, layout="lecture")


def _layers_in_construction_order(model: LanguageModel) -> list[str]:
    """The lecture's names of all layers whose weights are random."""
    if isinstance(model, BigramLanguageModel):
        return ["token_embedding_table"]
    head = ("key", "query", "value")
    names = ["token_embedding_table", "position_embedding_table"]
    if isinstance(model, SingleHeadLanguageModel):
        names += [f"sa_head.{part}" for part in head]
    else:
        for i in range(model.config.n_layer):
            heads = range(model.config.n_head)
            names += [f"blocks.{i}.sa.heads.{h}.{part}" for h in heads for part in head]
            names += [f"blocks.{i}.{part}" for part in ("sa.proj", "ffwd.net.0", "ffwd.net.2")]
    return [*names, "lm_head"]


def windows(
    tokens: Integer[np.ndarray, " N"], starts: Integer[np.ndarray, "*batch"], block_size: int
) -> tuple[Integer[np.ndarray, "*batch T"], Integer[np.ndarray, "*batch T"]]:
    """The `block_size` tokens from each start on, and the same moved on by one."""
    cut = Windows(tokens).at(starts.reshape(-1), block_size + 1).astype(np.int32)
    cut = cut.reshape(*starts.shape, block_size + 1)
    return cut[..., :-1], cut[..., 1:]


def lecture_batches(
    generator: Generator,
    tokens: Integer[np.ndarray, " N"],
    block_size: int,
    batch_size: int,
    n_steps: int,
    *,
    first_step: int = 0,
    tape: DropoutTape | None = None,
) -> GivenBatches:
    """The batches of the next `n_steps` calls of the lecture's `get_batch`, for `train_chunk`.

    With a tape, each step's dropout masks are drawn after its batch and recorded on the tape, as
    training with dropout draws them. Without one the model must have no dropout, or be evaluated.
    """
    starts = np.empty((n_steps, batch_size), np.int64)
    for step in range(n_steps):
        starts[step] = generator.randint(0, len(tokens) - block_size, (batch_size,))
        if tape is not None:
            tape.record(generator, batch_size, block_size)
    inputs, targets = windows(tokens, starts, block_size)
    return GivenBatches(
        jnp.asarray(inputs), jnp.asarray(targets), jnp.asarray(first_step, jnp.int32)
    )


def generate(
    model: LanguageModel,
    tokens: Integer[np.ndarray, "B T0"],
    max_new_tokens: int,
    generator: Generator,
    allowed: Bool[np.ndarray, " V"] | None = None,
) -> Integer[np.ndarray, "B T"]:
    """`tokens` continued by `max_new_tokens` as the lecture's `generate` samples them: [B T0+N].

    Ids that `allowed` is False for are never drawn.

    Dropout is off, as after torch's `eval()`; the lecture's `gpt.py` forgets to call it, so its own
    sample is taken with dropout on. The probabilities are this package's float32 ones:
    a token differs from torch's only if a draw falls between two roundings of one probability,
    odds of about one in a million a token.
    """
    graphdef, state = nnx.split(model)
    prompt_length = tokens.shape[1]
    total = prompt_length + max_new_tokens
    width = min(model.block_size, total)
    text = np.zeros((tokens.shape[0], total), np.int32)
    text[:, :prompt_length] = tokens
    for length in range(prompt_length, total):
        # One width for all lengths compiles once; what lies past the context's end is not seen.
        start = max(length - width, 0)
        window = text[:, start : start + width]
        probs = _next_probabilities(graphdef, state, window, np.int32(length - 1 - start), allowed)
        text[:, length] = generator.multinomial(np.asarray(probs))[:, 0]
    return text


@jax.jit
def _next_probabilities(graphdef, state, window, last, allowed) -> Float[jax.Array, "B V"]:
    model = nnx.merge(graphdef, state)
    model.eval()
    logits = jax.lax.dynamic_index_in_dim(model(window), last, axis=1, keepdims=False)
    if allowed is not None:
        logits = jnp.where(allowed, logits, -jnp.inf)
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    return jax.nn.softmax(logits.astype(wide), axis=-1)

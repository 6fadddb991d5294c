"""The names that nanoGPT, minGPT and Hugging Face's GPT-2 share, in two orientations.

Query, key and value are one matrix, as in this package. Hugging Face's Conv1D keeps [in, out], as
this package does; nanoGPT's and minGPT's Linear keeps [out, in]. nanoGPT's output matrix is always
the token embedding, minGPT's never, and minGPT alone keeps its causal masks among the weights.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from flax import nnx

from jax_attn.config import GPTConfig
from jax_attn.errors import InputError
from jax_attn.interop.entries import (
    CausalMask,
    Entries,
    Entry,
    MaskedScore,
    linear,
    norm,
    table,
    under,
)
from jax_attn.models.gpt import GPT

Projection = Callable[[str, nnx.Linear], Iterable[Entry]]


def nanogpt(model: nnx.Module) -> Entries:
    model = _held(model, "nanogpt")
    return _gpt(model, linear, masks_written=is_mingpt(model.config))


def gpt2(model: nnx.Module) -> Entries:
    return _gpt(_held(model, "gpt2"), _conv1d, masks_written=False)


def is_mingpt(config: GPTConfig) -> bool:
    """Whether weights of layout `nanogpt` are minGPT's: biases everywhere, an output matrix."""
    biased = config.qkv_bias and config.linear_bias and config.norm_bias
    return biased and not config.tie_embeddings


def _held(model: nnx.Module, layout: str) -> GPT:
    """InputError for what has parts without names."""
    if not isinstance(model, GPT):
        raise InputError(f"layout {layout!r} has names for a GPT, not {type(model).__name__}")
    if model.lm_head.bias is not None:
        raise InputError(
            f"layout {layout!r} has no place for the bias of the logits, lm_head.bias; "
            "use layout 'lecture', or train with head_bias=False (--model.no-head-bias)"
        )
    return model


def _gpt(model: GPT, projection: Projection, masks_written: bool) -> Entries:
    yield table("transformer.wte", model.token_embedding_table)
    yield table("transformer.wpe", model.position_embedding_table)
    for i, block in enumerate(model.blocks):
        entries = [
            *norm("ln_1", block.ln1),
            CausalMask("attn.bias", model.block_size, masks_written, n_axes=4),
            MaskedScore("attn.masked_bias"),
            *projection("attn.c_attn", block.sa.qkv),
            *projection("attn.c_proj", block.sa.proj),
            *norm("ln_2", block.ln2),
            *projection("mlp.c_fc", block.ffwd.expand),
            *projection("mlp.c_proj", block.ffwd.contract),
        ]
        yield from under(f"transformer.h.{i}", entries)
    yield from norm("transformer.ln_f", model.ln_f)
    if model.lm_head.kernel is None:
        # Files often leave the second copy out.
        tied = model.token_embedding_table.embedding
        yield Entry("lm_head.weight", tied, alias=True, optional=True)
    else:
        yield Entry("lm_head.weight", model.lm_head.kernel, transposed=True)


def _conv1d(name: str, layer: nnx.Linear) -> Iterator[Entry]:
    for entry in linear(name, layer):
        yield replace(entry, transposed=False)

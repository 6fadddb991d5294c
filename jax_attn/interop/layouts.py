"""Which part of which parameter carries which name, for each layout and module.

* `lecture`: the names of the lecture's own `gpt.py`; torch's Linear keeps [out, in], so kernels are
  transposed, and each head has its own query, key and value.
* `gpt2`: Hugging Face's GPT-2; its Conv1D keeps [in, out] and query, key and value in one matrix,
  as this package does, so nothing is transposed but an untied `lm_head`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Literal

import numpy as np
from flax import nnx
from numpy.typing import NDArray

from jax_attn.errors import InputError
from jax_attn.interop.own_layers import require_names, require_own_layers
from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.models.gpt import GPT, Block, FeedForward
from jax_attn.models.single_head import SingleHeadLanguageModel
from jax_attn.nn.attention import Head, MultiHeadAttention

Layout = Literal["lecture", "gpt2"]
Index = tuple[slice | EllipsisType, ...]
WHOLE: Index = (...,)


@dataclass(frozen=True)
class Entry:
    """One name of a state dict: `param[index]`, transposed or not."""

    name: str
    param: nnx.Param
    index: Index = WHOLE
    transposed: bool = False
    alias: bool = False  # says again what another entry says; must agree with it
    optional: bool = False  # may be missing from a state dict

    @property
    def shape(self) -> tuple[int, ...]:
        # A broadcast zero has the shape of the parameter without its memory.
        shape = np.broadcast_to(np.zeros(()), self.param.shape)[self.index].shape
        return shape[::-1] if self.transposed else shape


@dataclass(frozen=True)
class CausalMask:
    """A buffer that the other side registers beside its parameters; it follows from the shape."""

    name: str
    block_size: int | None  # None: a lone head here knows no block size, any will do
    written: bool  # part of what `to_state_dict` gives

    def value(self) -> NDArray[np.float32] | None:
        """[T T] ones and zeros, as the lecture's `tril`; None when it is not to be written."""
        if self.block_size is None or not self.written:
            return None
        return np.tril(np.ones((self.block_size, self.block_size), np.float32))

    def agrees(self, value: NDArray) -> bool:
        """Whether a given buffer, [T T] or GPT-2's [1 1 T T], is this mask."""
        size = value.shape[-1] if value.ndim else 0
        if value.size != size * size or self.block_size not in (None, size):
            return False
        return np.array_equal(value.reshape(size, size), np.tril(np.ones((size, size))))


Entries = Iterator[Entry | CausalMask]


def entries_of(model: nnx.Module, layout: Layout) -> list[Entry | CausalMask]:
    """All entries of a module.

    InputError for a module or layout without names, and for layers and parameters of a user's own.
    """
    require_own_layers(model)
    if layout == "lecture":
        entries = list(_lecture(model))
    elif layout == "gpt2":
        if not isinstance(model, GPT):
            raise InputError(f"layout 'gpt2' has names for a GPT, not {type(model).__name__}")
        entries = list(_gpt2(model))
    else:
        raise InputError(f"layout {layout!r} is unknown; choose lecture or gpt2")
    require_names(model, [e.param for e in entries if isinstance(e, Entry)], layout)
    return entries


def _lecture(model: nnx.Module) -> Entries:
    match model:
        case BigramLanguageModel():
            yield _table("token_embedding_table", model.token_embedding_table)
        case SingleHeadLanguageModel():
            yield _table("token_embedding_table", model.token_embedding_table)
            yield _table("position_embedding_table", model.position_embedding_table)
            yield from _under("sa_head", _lecture_head(model.sa_head, model.block_size))
            yield from _linear("lm_head", model.lm_head)
        case GPT():
            table = model.token_embedding_table
            yield _table("token_embedding_table", table)
            yield _table("position_embedding_table", model.position_embedding_table)
            for i, block in enumerate(model.blocks):
                yield from _under(f"blocks.{i}", _lecture_block(block, model.block_size))
            yield from _norm("ln_f", model.ln_f)
            yield _output_matrix("lm_head.weight", model, optional=False)
            if model.lm_head.bias is not None:
                yield Entry("lm_head.bias", model.lm_head.bias)
        case Block():
            yield from _lecture_block(model, None)
        case FeedForward():
            yield from _lecture_feed_forward(model)
        case MultiHeadAttention():
            yield from _lecture_heads(model, None)
        case Head():
            yield from _lecture_head(model, None)
        case _:
            raise InputError(f"layout 'lecture' has no names for {type(model).__name__}")


def _lecture_block(block: Block, block_size: int | None) -> Entries:
    yield from _under("sa", _lecture_heads(block.sa, block_size))
    yield from _under("ffwd", _lecture_feed_forward(block.ffwd))
    yield from _norm("ln1", block.ln1)
    yield from _norm("ln2", block.ln2)


def _lecture_feed_forward(feed_forward: FeedForward) -> Entries:
    yield from _linear("net.0", feed_forward.expand)
    yield from _linear("net.2", feed_forward.contract)


def _lecture_heads(attention: MultiHeadAttention, block_size: int | None) -> Entries:
    n_embd = attention.proj.kernel.shape[0]
    head_size = n_embd // attention.n_head
    for head in range(attention.n_head):
        for part, name in enumerate(("query", "key", "value")):
            start = part * n_embd + head * head_size
            columns = slice(start, start + head_size)
            names = f"heads.{head}.{name}"
            kernel, bias = attention.qkv.kernel, attention.qkv.bias
            yield Entry(f"{names}.weight", kernel, (slice(None), columns), transposed=True)
            if bias is not None:
                yield Entry(f"{names}.bias", bias, (columns,))
        yield from _under(f"heads.{head}", _tril(attention.causal, block_size))
    yield from _linear("proj", attention.proj)


def _lecture_head(head: Head, block_size: int | None) -> Entries:
    for name, projection in (("key", head.key), ("query", head.query), ("value", head.value)):
        yield Entry(f"{name}.weight", projection.kernel, transposed=True)
    yield from _tril(head.causal, block_size)


def _tril(causal: bool, block_size: int | None) -> Entries:
    if causal:
        yield CausalMask("tril", block_size, written=True)


def _gpt2(model: GPT) -> Entries:
    yield _table("transformer.wte", model.token_embedding_table)
    yield _table("transformer.wpe", model.position_embedding_table)
    for i, block in enumerate(model.blocks):
        entries = [
            *_norm("ln_1", block.ln1),
            *_conv1d("attn.c_attn", block.sa.qkv),
            *_conv1d("attn.c_proj", block.sa.proj),
            CausalMask("attn.bias", model.block_size, written=False),
            *_norm("ln_2", block.ln2),
            *_conv1d("mlp.c_fc", block.ffwd.expand),
            *_conv1d("mlp.c_proj", block.ffwd.contract),
        ]
        yield from _under(f"transformer.h.{i}", entries)
    yield from _norm("transformer.ln_f", model.ln_f)
    # Files of a tied model often leave the second copy out.
    yield _output_matrix("lm_head.weight", model, optional=model.config.tie_embeddings)
    if model.lm_head.bias is not None:
        yield Entry("lm_head.bias", model.lm_head.bias)


def _output_matrix(name: str, model: GPT, optional: bool) -> Entry:
    if model.lm_head.kernel is None:
        return Entry(name, model.token_embedding_table.embedding, alias=True, optional=optional)
    return Entry(name, model.lm_head.kernel, transposed=True)


def _table(name: str, table: nnx.Embed) -> Entry:
    return Entry(f"{name}.weight", table.embedding)


def _linear(name: str, linear: nnx.Linear) -> Iterator[Entry]:
    yield Entry(f"{name}.weight", linear.kernel, transposed=True)
    if linear.bias is not None:
        yield Entry(f"{name}.bias", linear.bias)


def _conv1d(name: str, linear: nnx.Linear) -> Entries:
    for entry in _linear(name, linear):
        yield replace(entry, transposed=False)


def _norm(name: str, norm: nnx.LayerNorm) -> Entries:
    for part, param in (("weight", norm.scale), ("bias", norm.bias)):
        if param is not None:
            yield Entry(f"{name}.{part}", param)


def _under(prefix: str, entries: Iterable[Entry | CausalMask]) -> Entries:
    for entry in entries:
        yield replace(entry, name=f"{prefix}.{entry.name}")

"""The names of the lecture's own `gpt.py` and `bigram.py`.

torch's Linear keeps [out, in], so kernels are transposed, and each head has its own query, key and
value. `torch_ref` has the same names for what the lecture's classes have no place for: biases of
queries, keys and values, say.
"""

from flax import nnx

from jax_attn.errors import InputError
from jax_attn.interop.entries import CausalMask, Entries, Entry, linear, norm, table, under
from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.models.gpt import GPT, Block, FeedForward
from jax_attn.models.single_head import SingleHeadLanguageModel
from jax_attn.nn.attention import Head, MultiHeadAttention


def lecture(model: nnx.Module) -> Entries:
    match model:
        case BigramLanguageModel():
            yield table("token_embedding_table", model.token_embedding_table)
        case SingleHeadLanguageModel():
            yield table("token_embedding_table", model.token_embedding_table)
            yield table("position_embedding_table", model.position_embedding_table)
            yield from under("sa_head", _head(model.sa_head, model.block_size))
            yield from linear("lm_head", model.lm_head)
        case GPT():
            yield table("token_embedding_table", model.token_embedding_table)
            yield table("position_embedding_table", model.position_embedding_table)
            for i, block in enumerate(model.blocks):
                yield from under(f"blocks.{i}", _block(block, model.block_size))
            yield from norm("ln_f", model.ln_f)
            if model.lm_head.kernel is None:
                tied = model.token_embedding_table.embedding
                yield Entry("lm_head.weight", tied, alias=True)
            else:
                yield Entry("lm_head.weight", model.lm_head.kernel, transposed=True)
            if model.lm_head.bias is not None:
                yield Entry("lm_head.bias", model.lm_head.bias)
        case Block():
            yield from _block(model, None)
        case FeedForward():
            yield from _feed_forward(model)
        case MultiHeadAttention():
            yield from _heads(model, None)
        case Head():
            yield from _head(model, None)
        case _:
            raise InputError(f"layout 'lecture' has no names for {type(model).__name__}")


def _block(block: Block, block_size: int | None) -> Entries:
    yield from under("sa", _heads(block.sa, block_size))
    yield from under("ffwd", _feed_forward(block.ffwd))
    yield from norm("ln1", block.ln1)
    yield from norm("ln2", block.ln2)


def _feed_forward(feed_forward: FeedForward) -> Entries:
    yield from linear("net.0", feed_forward.expand)
    yield from linear("net.2", feed_forward.contract)


def _heads(attention: MultiHeadAttention, block_size: int | None) -> Entries:
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
        yield from under(f"heads.{head}", _tril(attention.causal, block_size))
    yield from linear("proj", attention.proj)


def _head(head: Head, block_size: int | None) -> Entries:
    for name, projection in (("key", head.key), ("query", head.query), ("value", head.value)):
        yield Entry(f"{name}.weight", projection.kernel, transposed=True)
    yield from _tril(head.causal, block_size)


def _tril(causal: bool, block_size: int | None) -> Entries:
    if causal:
        yield CausalMask("tril", block_size, written=True)

"""What is as large as the vocabulary: the loss with its output matrix, the embedding's gradient."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.device.elementwise import normals
from benchmarks.device.gpt2_data import zipf_ids
from benchmarks.device.record import Record
from benchmarks.device.sizes import Sizes
from benchmarks.device.timing import forward_backward, time_variants
from jax_attn.nn.chunked_loss import chunked_loss_sum
from jax_attn.nn.layers import Embedding


def losses(record: Record, sizes: Sizes) -> None:
    """GPT-2's, at bfloat16 inputs; by how many logits are formed at once, and how wide."""
    gpt2 = sizes.gpt2
    shape = (gpt2.batch_size, gpt2.length)
    hidden = normals(*shape, gpt2.n_embd)
    # Logits of a deviation near 3, as a trained model's.
    matrix = 3 * gpt2.n_embd**-0.5 * normals(gpt2.n_embd, gpt2.vocab_size, seed=1)
    targets = jnp.asarray(zipf_ids(shape, gpt2.vocab_size))
    one = jnp.ones(())

    def in_parts(most_logits):
        def loss(hidden, matrix, targets):
            return chunked_loss_sum(hidden, matrix, None, targets, most_logits)[0]

        return loss

    whole = 2 * hidden.size * gpt2.vocab_size  # more than there are, padding and all
    ways = {"jax_attn": in_parts(None)}
    ways |= {f"parts of {most} logits": in_parts(most) for most in sizes.parts_of_logits}
    ways |= {"whole": in_parts(whole)}
    ways |= {f"whole, {name} logits": way for name, way in WHOLE.items()}
    inputs = (hidden, matrix)
    variants = [forward_backward(n, way, inputs, one, [targets]) for n, way in ways.items()]
    wide = [x.astype(jnp.float32) for x in inputs]
    smallest = in_parts(sizes.parts_of_logits[0])
    reference = forward_backward("float32", smallest, wide, one, [targets])
    time_variants(record, "loss", variants, sizes, reference, rows=targets.size)


def whole_loss(logits_dtype: Any) -> Any:
    """The sum of the cross-entropies, all logits kept in one dtype; derivatives as narrow as x."""

    @jax.custom_vjp
    def loss(hidden, matrix, targets):
        return forward(hidden, matrix, targets)[0]

    def forward(hidden, matrix, targets):
        logits = jnp.matmul(hidden, matrix, preferred_element_type=logits_dtype)
        total = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return (total - chosen).sum(), (hidden, matrix, targets, logits, total)

    def backward(saved, dloss):
        hidden, matrix, targets, logits, total = saved
        of_target = targets[..., None] == jnp.arange(logits.shape[-1])
        wide = jnp.exp(logits.astype(jnp.float32) - total[..., None]) - of_target
        dlogits = (dloss * wide).astype(hidden.dtype)
        rows = hidden.reshape(-1, hidden.shape[-1])
        dmatrix = jnp.matmul(rows.T, dlogits.reshape(len(rows), -1))
        return jnp.matmul(dlogits, matrix.T), dmatrix, None

    loss.defvjp(forward, backward)
    return loss


WHOLE = {name: whole_loss(jnp.dtype(name)) for name in ("bfloat16", "float32")}


def embedding_gradients(record: Record, sizes: Sizes) -> None:
    """From a float32 table, with a bfloat16 result, of GPT-2's and of the lecture's vocabulary."""
    gpt2 = sizes.gpt2
    shapes = [
        (gpt2.vocab_size, gpt2.n_embd, (gpt2.batch_size, gpt2.length)),
        (sizes.lecture_vocabulary, sizes.lecture_channels, sizes.lecture_batch),
    ]
    for vocab_size, c, batch in shapes:
        ids = jnp.asarray(zipf_ids(batch, vocab_size))
        dy = normals(*batch, c, seed=1)
        module = Embedding(
            vocab_size, c, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=jnp.float32
        )
        structure, state = nnx.split(module)
        (table,) = jax.tree.leaves(state)

        def package(state, ids, structure=structure):
            return nnx.merge(structure, state)(ids)

        variants = [forward_backward("jax_attn", package, [state], dy, [ids])]
        variants += [
            forward_backward(name, way, [table], dy, [ids]) for name, way in LOOKUPS.items()
        ]
        reference = forward_backward(
            "float32", lambda table, ids: table[ids], [table], dy.astype(jnp.float32), [ids]
        )
        time_variants(
            record, f"embedding, V {vocab_size:,}", variants, sizes, reference, ids=ids.size
        )


def _gather_first(table, ids):
    return table[ids].astype(jnp.bfloat16)


def _cast_first(table, ids):
    return table.astype(jnp.bfloat16)[ids]


@jax.custom_vjp
def _one_hot(table, ids):
    return _gather_first(table, ids)


def _one_hot_backward(saved, dy):
    table, ids = saved
    rows = dy.reshape(-1, dy.shape[-1])
    hot = jax.nn.one_hot(ids.reshape(-1), len(table), axis=0, dtype=rows.dtype)
    return jnp.matmul(hot, rows, preferred_element_type=jnp.float32), None


_one_hot.defvjp(lambda table, ids: (_one_hot(table, ids), (table, ids)), _one_hot_backward)


@jax.custom_vjp
def _sorted(table, ids):
    return _gather_first(table, ids)


def _sorted_backward(saved, dy):
    table, ids = saved
    order = jnp.argsort(ids.reshape(-1))
    rows = dy.reshape(-1, dy.shape[-1])[order].astype(jnp.float32)
    places = ids.reshape(-1)[order]
    return jnp.zeros_like(table).at[places].add(rows, indices_are_sorted=True), None


_sorted.defvjp(lambda table, ids: (_sorted(table, ids), (table, ids)), _sorted_backward)

LOOKUPS: dict[str, Any] = {
    "float32 scatter": _gather_first,
    "bfloat16 scatter": _cast_first,
    "one-hot product": _one_hot,
    "sorted float32 scatter": _sorted,
}

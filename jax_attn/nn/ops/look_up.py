"""Rows of a table; and its gradient, what every place of a batch adds to the row it looked up."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from jax_attn.nn.ops.own_derivative import own_derivative

BLOCK = 128  # places that are added up in one matrix product


@own_derivative(nondiff_argnums=(2,))
def look_up(
    table: Float[Array, "V C"], ids: Integer[Array, "*batch"], dtype: DTypeLike
) -> Float[Array, "*batch C"]:
    """The rows of `ids`, rounded to `dtype`; NaN for an id outside.

    The gradient is added up in the table's own dtype: a bfloat16 sum stops growing at some 256
    equal terms, and a batch has an id far more often.
    """
    return _rows(table, ids, dtype)


def _rows(table, ids, dtype):
    rows = table.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    return rows.astype(dtype)


def _forward(table, ids, dtype):
    return _rows(table, ids, dtype), (table, ids)


def _backward(dtype, saved, dy):
    del dtype
    table, ids = saved

    dtable = jax.lax.platform_dependent(
        ids.reshape(-1),
        dy.reshape(-1, dy.shape[-1]),
        cpu=partial(_added_one_by_one, table=table),
        default=partial(_added_in_order, table=table),
    )
    return dtable, None


look_up.defvjp(_forward, _backward)


def _added_one_by_one(ids, dy, table):
    dtable = jnp.zeros_like(table)
    return dtable.at[ids].add(dy.astype(table.dtype), mode="drop", wrap_negative_indices=False)


def _added_in_order(ids, dy, table):
    """For accelerators, where places that share an id would wait for one another, as most do.

    They would also be added in another order every time, and some compilers' addition of float32
    to memory is a loop of attempts. So the places are sorted by id, and what one id has lies
    together: in blocks of places, as products with a matrix of which places share an id, and from
    block to block as a scan.
    """
    n, n_rows = ids.size, table.shape[0]
    wide = table.dtype
    padded = n + -n % BLOCK
    ids = jnp.pad(ids.astype(jnp.int32), (0, padded - n), constant_values=n_rows)
    ids, order = jax.lax.sort((ids, jnp.arange(padded, dtype=jnp.int32)), num_keys=1)
    dy = dy.at[order].get(mode="fill", fill_value=0)

    ids_of = ids.reshape(-1, BLOCK)
    first, last = ids_of[:, 0], ids_of[:, -1]
    up_to = jnp.tril(ids_of[:, :, None] == ids_of[:, None, :])  # of the same id, itself included
    sums = jnp.matmul(
        up_to.astype(dy.dtype),
        dy.reshape(-1, BLOCK, dy.shape[-1]),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=wide,
    )
    before = _carried(first, last, sums[:, -1])

    end = jnp.searchsorted(ids, jnp.arange(n_rows, dtype=jnp.int32), side="right")
    place = jnp.maximum(end - 1, 0)  # of each id's last; where it has none, another's
    block = place // BLOCK
    dtable = sums.reshape(padded, -1)[place]
    row_id = jnp.arange(n_rows, dtype=jnp.int32)
    dtable += jnp.where((first[block] == row_id)[:, None], before[block], 0)
    return jnp.where((ids[place] == row_id)[:, None], dtable, 0)


def _carried(first, last, last_sums):
    """What the blocks before each have of its first id, [blocks C].

    A block hands on the sum of its last id, and if it has no other, what was handed to it.
    """
    joined = first[1:] == last[:-1]
    through = joined & (first == last)[:-1]

    def then(a, b):
        (through_a, sums_a), (through_b, sums_b) = a, b
        return through_a & through_b, sums_b + jnp.where(through_b, sums_a, 0)

    handed = jnp.where(joined[:, None], last_sums[:-1], 0)
    _, carried = jax.lax.associative_scan(then, (through[:, None], handed))
    return jnp.concatenate([jnp.zeros_like(last_sums[:1]), carried])

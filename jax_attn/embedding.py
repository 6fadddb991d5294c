"""A table of rows, and its gradient: what every place of a batch adds to the row it looked up."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

# A table with no more rows has its gradient as a product, off the CPU.
ROWS_BY_PRODUCT = 1024


class Embedding(nnx.Embed):
    """A table of rows; an id outside it gives NaN, never another id's row.

    torch raises there. Compiled code cannot, and plain indexing would clamp or wrap in silence.
    """

    def __call__(self, inputs: Integer[Array, ...], out_sharding=None) -> Float[Array, "... C"]:
        del out_sharding
        return look_up(self.embedding[...], inputs, self.dtype)

    def first_rows(self, n: int) -> Float[Array, "n C"]:
        """Those of the ids from 0 to n - 1; a slice, whose gradient costs nothing."""
        return self.embedding[:n].astype(self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def look_up(
    table: Float[Array, "V C"], ids: Integer[Array, "*batch"], dtype: DTypeLike
) -> Float[Array, "*batch C"]:
    """The rows of `ids`, rounded to `dtype`; NaN for an id outside. Reverse-mode derivatives only.

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

    def added_row_by_row(ids, dy):
        dtable = jnp.zeros_like(table)
        dy = dy.astype(table.dtype)
        return dtable.at[ids].add(dy, mode="drop", wrap_negative_indices=False)

    def as_product(ids, dy):
        # Places that share an id wait for one another in a scatter, and in a text most do; some
        # compilers' scatter of float32 is a loop of attempts besides.
        chosen = (ids.reshape(1, -1) == jnp.arange(table.shape[0])[:, None]).astype(dy.dtype)
        return jnp.matmul(
            chosen,
            dy.reshape(-1, dy.shape[-1]),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=table.dtype,
        )

    elsewhere = as_product if table.shape[0] <= ROWS_BY_PRODUCT else added_row_by_row
    dtable = jax.lax.platform_dependent(ids, dy, cpu=added_row_by_row, default=elsewhere)
    return dtable, None


look_up.defvjp(_forward, _backward)

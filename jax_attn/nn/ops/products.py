"""Matrix products, their derivatives written out, in the forms that each compiler is fast at."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.nn.ops.own_derivative import own_derivative

ROW_PARTS = 8
LARGE_KERNEL = 1 << 18  # numbers from which on taking a single row in parts pays


@own_derivative(nondiff_argnums=(2,))
def matmul(
    x: Float[Array, "*batch I"], kernel: Float[Array, "I O"], out_dtype: DTypeLike
) -> Float[Array, "*batch O"]:
    """x @ kernel, accumulated in at least float32, in `out_dtype`.

    The derivative is written out for XLA's CPU compiler: left to itself it puts the kernel's
    gradient as a product with `dy` transposed, and recomputes inside that transposition the sum of
    all residual branches above, which makes the time of a deep model grow with depth squared.
    """
    if x.size == x.shape[-1] and kernel.size >= LARGE_KERNEL and x.shape[-1] % ROW_PARTS == 0:
        return jax.lax.platform_dependent(
            x,
            kernel,
            cpu=partial(row_product, out_dtype=out_dtype),
            cuda=partial(row_product_on_gpu, out_dtype=out_dtype),
            default=partial(product, out_dtype=out_dtype),
        )
    return product(x, kernel, out_dtype)


def row_product(x: Array, kernel: Array, out_dtype: DTypeLike) -> Array:
    """`product` for a single row x: a sum of products of its ROW_PARTS parts.

    That takes as long as the kernel takes to be read. Eigen shares the parts among the cores, and
    reads a [3072 768] kernel a quarter faster than it does as a whole.
    """
    wide = jnp.promote_types(out_dtype, jnp.float32)
    parts = jnp.matmul(
        x.reshape(ROW_PARTS, 1, -1),
        kernel.reshape(ROW_PARTS, -1, kernel.shape[-1]),
        preferred_element_type=wide,
    )
    return parts.sum(axis=0).reshape(*x.shape[:-1], -1).astype(out_dtype)


def row_product_on_gpu(x: Array, kernel: Array, out_dtype: DTypeLike) -> Array:
    """`product` for a single row x; in bfloat16 as one of two equal rows.

    Of a single row XLA's GPU compiler makes no matrix product: it multiplies in bfloat16 and adds
    afterwards, and where the kernel is narrow it writes and reads again all that is to be added.
    """
    if jnp.dtype(out_dtype) != jnp.bfloat16:
        return product(x, kernel, out_dtype)
    rows = jnp.broadcast_to(x.reshape(1, -1), (2, x.shape[-1]))
    return product(rows, kernel, out_dtype)[0].reshape(*x.shape[:-1], -1)


def product(a: Array, b: Array, out_dtype: DTypeLike) -> Array:
    """a @ b in `out_dtype`, accumulated in at least float32.

    A CPU's instructions for bfloat16 give float32, so it is rounded there at the end: asked for a
    bfloat16 result outright, XLA multiplies widened operands, which takes three times as long.
    """

    if jnp.dtype(out_dtype) != jnp.bfloat16:
        return jnp.matmul(a, b, preferred_element_type=out_dtype)

    def outright(a, b):
        return jnp.matmul(a, b, preferred_element_type=out_dtype)

    def rounded_at_the_end(a, b):
        return jnp.matmul(a, b, preferred_element_type=jnp.float32).astype(out_dtype)

    return jax.lax.platform_dependent(a, b, cpu=rounded_at_the_end, default=outright)


def transposed(x: Array) -> Array:
    """x with its last two axes swapped, to be one side of a product.

    In bfloat16 on a CPU it is laid out so, too: its instructions for bfloat16 are not used where a
    side is read across.
    """

    def swapped(x):
        return x.swapaxes(-1, -2)

    def laid_out(x):
        return with_layout_constraint(swapped(x), Layout(tuple(range(x.ndim))))

    if x.dtype != jnp.bfloat16:
        return swapped(x)
    return jax.lax.platform_dependent(x, cpu=laid_out, default=swapped)


def _matmul_forward(x, kernel, out_dtype):
    return matmul(x, kernel, out_dtype), (x, kernel)


def _matmul_backward(out_dtype, saved, dy):
    x, kernel = saved
    dy = dy.astype(x.dtype)
    dkernel = product(transposed(x.reshape(-1, x.shape[-1])), dy.reshape(-1, dy.shape[-1]), x.dtype)
    return product(dy, transposed(kernel), x.dtype), dkernel


matmul.defvjp(_matmul_forward, _matmul_backward)


@own_derivative(nondiff_argnums=(2,))
def matmul_rows(
    x: Float[Array, "*batch C"], table: Float[Array, "V C"], out_dtype: DTypeLike
) -> Float[Array, "*batch V"]:
    """x @ table.T, as `matmul`, for a table that is kept by rows.

    Of a single x and `table.T` XLA's CPU compiler makes a scalar loop, half as fast.
    """
    axis = x.ndim - 1
    return jax.lax.dot_general(
        x, table, (((axis,), (1,)), ((), ())), preferred_element_type=out_dtype
    )


def _matmul_rows_forward(x, table, out_dtype):
    return matmul_rows(x, table, out_dtype), (x, table)


def _matmul_rows_backward(out_dtype, saved, dy):
    x, table = saved
    dy = dy.astype(x.dtype)
    dtable = product(transposed(dy.reshape(-1, dy.shape[-1])), x.reshape(-1, x.shape[-1]), x.dtype)
    return product(dy, table, x.dtype), dtable


matmul_rows.defvjp(_matmul_rows_forward, _matmul_rows_backward)


@own_derivative()
def matmul_apart(
    x: Float[Array, "*batch I"], kernels: Sequence[Float[Array, "I O"]]
) -> list[Float[Array, "*batch O"]]:
    """x times each of some kernels."""
    return [product(x, kernel, x.dtype) for kernel in kernels]


def _matmul_apart_forward(x, kernels):
    return matmul_apart(x, kernels), (x, kernels)


def _matmul_apart_backward(saved, dys):
    x, kernels = saved
    dx, dkernels = None, []
    for kernel, dy in zip(kernels, dys, strict=True):
        part, dkernel = _matmul_backward(x.dtype, (x, kernel), dy)
        # One after the other, for XLA's GPU compiler adds a product to an array as it writes it,
        # but not to another product.
        dx = part if dx is None else part + jax.lax.optimization_barrier(dx)
        dkernels.append(dkernel)
    return dx, dkernels


matmul_apart.defvjp(_matmul_apart_forward, _matmul_apart_backward)


def linear_product(x, kernel, dimension_numbers, precision=None, out_sharding=None):
    """`matmul` in the form that nnx.Linear asks of its `dot_general`."""
    del dimension_numbers, precision, out_sharding
    return matmul(x, kernel, x.dtype)


def linear_in_parts(
    layer: nnx.Module, x: Float[Array, "*batch I"], n: int
) -> list[Float[Array, "*batch O"]]:
    """`jnp.split(layer(x), n, axis=-1)`, on accelerators as n products.

    So it is for the layers that this package makes. What somebody has put in the place of one may
    be more than its kernel (`nnx.LoRALinear`), and is called.

    That spares them two passes over memory, one that takes the common result apart and one that
    puts its derivative together. A CPU is faster at the single large product.
    """
    if type(layer) is not nnx.Linear or layer.dot_general is not linear_product:
        return jnp.split(layer(x), n, axis=-1)  # pyright: ignore
    kernel, bias = layer.kernel[...], None if layer.bias is None else layer.bias[...]
    x, kernel, bias = layer.promote_dtype((x, kernel, bias), dtype=layer.dtype)

    def apart(x, kernel, bias):
        parts = matmul_apart(x, jnp.split(kernel, n, axis=-1))
        if bias is None:
            return parts
        return [y + part for y, part in zip(parts, jnp.split(bias, n), strict=True)]

    def together(x, kernel, bias):
        y: Any = matmul(x, kernel, x.dtype)
        return jnp.split(y if bias is None else y + bias, n, axis=-1)

    return jax.lax.platform_dependent(x, kernel, bias, cpu=together, default=apart)

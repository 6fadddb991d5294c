"""Faults of what replaces, on accelerators, a way of computing that pays on a CPU only."""

from jax_attn.nn import loss
from jax_attn.nn.ops import add_to_all, look_up, normalize, products
from parity_tests.suite.mutants.planting import Mutant, Plant, derivative, edited

NORM = f"{normalize.__name__}:_elsewhere"
ONE_PASS = f"{loss.__name__}:_sums_in_one_pass"
PRODUCTS = products.__name__
ADD_TO_ALL = f"{add_to_all.__name__}:add_to_all"
IN_ORDER = f"{look_up.__name__}:_added_in_order"


def _mutant(name: str, description: str, plant: Plant) -> Mutant:
    return Mutant(name, "accelerator", description, "accelerators", plant)


MUTANTS = [
    _mutant(
        "norm off the CPU: mean left in",
        "the derivative keeps what a shift of the row would take",
        edited(NORM, "dnormal - dnormal.mean(axis=-1, keepdims=True)", "dnormal"),
    ),
    _mutant(
        "norm off the CPU: stretch left in",
        "the derivative keeps what a stretch of the row would take",
        edited(NORM, " - normal_x * stretch", ""),
    ),
    _mutant(
        "norm off the CPU: scale's gradient not divided by the deviation",
        "the rows' deviations are left out of the column sums",
        edited(NORM, "dy * (x - mean) * jax.lax.rsqrt(variance + epsilon)", "dy * (x - mean)"),
    ),
    _mutant(
        "norm off the CPU: parts of a row as if of one mean",
        "the distance between two parts' means is no part of the variance",
        edited(
            f"{normalize.__name__}:_mean_and_variance",
            "squares_a + squares_b + apart * apart * n_a * share",
            "squares_a + squares_b",
        ),
    ),
    _mutant(
        "loss in one reading: sums not rescaled",
        "what was summed under a smaller maximum counts as if under the larger",
        edited(ONE_PASS, "total_a * jnp.where(top_a == top, 1, jnp.exp(top_a - top))", "total_a"),
    ),
    _mutant(
        "loss in one reading: targets outside count 0",
        "a target that is no token has a logit of 0",
        edited(ONE_PASS, "(label >= 0) & (label < vocab_size)", "label == label"),
    ),
    _mutant(
        "table off the CPU: gradient in bfloat16",
        "it stops growing after some 256 equal ids",
        edited(IN_ORDER, "wide = table.dtype", "wide = dy.dtype"),
    ),
    _mutant(
        "table off the CPU: places in their old order",
        "sorted ids, unsorted rows",
        edited(IN_ORDER, "dy.at[order]", "dy.at[jnp.sort(order)]"),
    ),
    _mutant(
        "table off the CPU: blocks for themselves",
        "what earlier blocks have of an id is lost",
        edited(IN_ORDER, "first[block] == row_id", "first[block] == -2"),
    ),
    _mutant(
        "table off the CPU: the first place of an id counts for all",
        "each place's sum is its own row",
        edited(IN_ORDER, "ids_of[:, :, None] == ids_of[:, None, :]", "jnp.eye(BLOCK, dtype=bool)"),
    ),
    _mutant(
        "table off the CPU: an id through many blocks",
        "a block that has one id only hands on its own sum",
        edited(
            f"{look_up.__name__}:_carried",
            "sums_b + jnp.where(through_b, sums_a, 0)",
            "sums_b",
        ),
    ),
    _mutant(
        "table off the CPU: absent ids",
        "an id that does not occur gets its neighbour's gradient",
        edited(IN_ORDER, "(ids[place] == row_id)[:, None]", "True"),
    ),
    _mutant(
        "positions off the CPU learn from the first row",
        "the position table's gradient is that of one row of the batch",
        derivative(ADD_TO_ALL, "_add_to_all_backward", "dy.sum(axis=0)", "dy[0]"),
    ),
    _mutant(
        "queries, keys, values: only the last goes back",
        "the input's gradient is one product's, not the three products' sum",
        derivative(
            f"{PRODUCTS}:matmul_apart",
            "_matmul_apart_backward",
            "part if dx is None else part + jax.lax.optimization_barrier(dx)",
            "part",
        ),
    ),
    _mutant(
        "queries, keys, values: kernels in reverse",
        "taken apart and put together in another order",
        edited(
            f"{PRODUCTS}:linear_in_parts",
            "jnp.split(kernel, n, axis=-1)",
            "jnp.split(kernel, n, axis=-1)[::-1]",
        ),
    ),
]

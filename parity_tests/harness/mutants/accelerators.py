"""Faults of what replaces, on accelerators, a way of computing that pays on a CPU only."""

from parity_tests.harness.mutants.planting import Mutant, Plant, derivative, edited

NORM = "jax_attn.normalize:_elsewhere"
ONE_PASS = "jax_attn.loss:_sums_in_one_pass"
LAYERS = "jax_attn.layers"
EMBEDDING = "jax_attn.embedding:look_up"


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
            "jax_attn.normalize:_mean_and_variance",
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
        "small table: ids and places swapped",
        "the gradient's rows in the order of the batch",
        derivative(
            EMBEDDING,
            "_backward",
            "ids.reshape(1, -1) == jnp.arange(table.shape[0])[:, None]",
            "ids.reshape(1, -1) == jnp.arange(table.shape[0])[::-1, None]",
        ),
    ),
    _mutant(
        "table's gradient in bfloat16",
        "it stops growing after some 256 equal ids",
        derivative(
            EMBEDDING,
            "_backward",
            "dtable = jnp.zeros_like(table)\n        dy = dy.astype(table.dtype)",
            "dtable = jnp.zeros_like(table, jnp.bfloat16)\n        dy = dy.astype(dtable.dtype)",
        ),
    ),
    _mutant(
        "positions off the CPU learn from the first row",
        "the position table's gradient is that of one row of the batch",
        derivative(f"{LAYERS}:add_to_all", "_add_to_all_backward", "dy.sum(axis=0)", "dy[0]"),
    ),
    _mutant(
        "queries, keys, values: only the last goes back",
        "the input's gradient is one product's, not the three products' sum",
        derivative(
            f"{LAYERS}:matmul_apart",
            "_matmul_apart_backward",
            "part if dx is None else part + jax.lax.optimization_barrier(dx)",
            "part",
        ),
    ),
    _mutant(
        "queries, keys, values: kernels in reverse",
        "taken apart and put together in another order",
        edited(
            f"{LAYERS}:linear_in_parts",
            "jnp.split(kernel, n, axis=-1)",
            "jnp.split(kernel, n, axis=-1)[::-1]",
        ),
    ),
]

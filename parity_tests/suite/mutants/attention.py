"""Faults of attention: scale, mask, softmax, heads, projections."""

from jax_attn.nn import attention, blocked, flash
from parity_tests.suite.mutants.planting import Mutant, Plant, edited

WEIGHTS = f"{attention.__name__}:attention_weights"
FACTOR = f"{attention.__name__}:_factor"
BLOCKS = f"{blocked.__name__}:_scores"
MASK = f"{attention.__name__}:causal_mask"
HEAD = f"{attention.__name__}:Head"
MULTI = f"{attention.__name__}:MultiHeadAttention"
SCALE = "query.shape[-1] ** -0.5"
SOFTMAX = "jax.nn.softmax(scores, axis=axis).astype(query.dtype)"
TRIL = "jnp.tril(jnp.ones((length, length), bool))"


def _mutant(
    name: str, description: str, plant: Plant, caught_by: str = "attention", equivalent: str = ""
) -> Mutant:
    return Mutant(name, "attention", description, caught_by, plant, equivalent)


MUTANTS = [
    _mutant(
        "scale of all channels",
        "n_embd ** -0.5 in the place of head_size ** -0.5",
        edited(FACTOR, SCALE, "(3 * query.shape[-1]) ** -0.5"),
    ),
    _mutant("no scale", "scores as they are", edited(FACTOR, SCALE, "1.0")),
    _mutant("scale twice", "1/K for 1/sqrt(K)", edited(FACTOR, SCALE, "1 / query.shape[-1]")),
    _mutant(
        "softmax over queries",
        "columns sum to 1, not rows: the notebooks' dim=1",
        edited(WEIGHTS, "softmax(scores, axis=axis)", "softmax(scores, axis=-2)"),
    ),
    _mutant(
        "softmax in bfloat16",
        "the scores are rounded to 8 bits before the softmax",
        edited(WEIGHTS, "softmax(scores,", "softmax(scores.astype(jnp.bfloat16),"),
    ),
    _mutant(
        "softmax without the maximum",
        "exp(scores) overflows for large ones",
        edited(WEIGHTS, SOFTMAX, "jnp.exp(scores) / jnp.exp(scores).sum(axis, keepdims=True)"),
    ),
    _mutant(
        "weights rounded to float16",
        "after the softmax, as a half-precision cache would",
        edited(WEIGHTS, SOFTMAX, SOFTMAX.replace(".astype", ".astype(jnp.float16).astype")),
    ),
    _mutant(
        "mask inverted",
        "True taken for hidden",
        edited(WEIGHTS, "(mask, scores, -jnp.inf)", "(mask, -jnp.inf, scores)"),
    ),
    _mutant(
        "the TPU's kernel without its scale",
        "scores as they are, on a TPU alone",
        edited(f"{flash.__name__}:_by_tpu_kernel", "sm_scale=scale", "sm_scale=1.0"),
    ),
    _mutant("fill of -1e9", "lower scores leak", edited(WEIGHTS, "-jnp.inf", "-1e9")),
    _mutant("fill of +inf", "the sign forgotten", edited(WEIGHTS, "-jnp.inf", "jnp.inf")),
    _mutant(
        "fill of 0",
        "the mask multiplied onto the scores",
        edited(WEIGHTS, "jnp.where(mask, scores, -jnp.inf)", "scores * mask"),
    ),
    _mutant(
        "mask after the softmax",
        "weights of hidden positions are zeroed; rows no longer sum to 1",
        edited(
            WEIGHTS,
            SOFTMAX,
            "(jax.nn.softmax(jnp.where(jnp.isneginf(scores), 0, scores), axis=axis)"
            " * ~jnp.isneginf(scores)).astype(query.dtype)",
        ),
    ),
    _mutant(
        "a row that sees nothing is 0",
        "NaN in torch",
        edited(WEIGHTS, SOFTMAX, f"jnp.nan_to_num({SOFTMAX})"),
    ),
    _mutant(
        "a row that sees nothing is uniform",
        "the largest negative number for -inf",
        edited(WEIGHTS, "-jnp.inf", "jnp.finfo(scores.dtype).min"),
    ),
    _mutant("sees the next token", "tril(k=1)", edited(MASK, TRIL, TRIL[:-1] + ", k=1)")),
    _mutant("does not see itself", "tril(k=-1)", edited(MASK, TRIL, TRIL[:-1] + ", k=-1)")),
    _mutant("sees the future alone", "triu for tril", edited(MASK, "jnp.tril", "jnp.triu")),
    _mutant(
        "queries and keys swapped",
        "scores transposed",
        edited(WEIGHTS, '"...tk,...sk->...ts", query, key', '"...tk,...sk->...ts", key, query'),
    ),
    _mutant(
        "kernel sees the future",
        "the output is not causal, though the weights that it reports are",
        edited(f"{MULTI}.__call__", "value, causal=causal,", "value, causal=False,"),
    ),
    _mutant(
        "blocks masked from the start",
        "every block of queries gets the mask's first rows",
        edited(BLOCKS, "jnp.arange(start, stop)", "jnp.arange(stop - start)"),
    ),
    _mutant(
        "blocks miss the first keys",
        "each sees its own keys only: a window nobody asked for",
        edited(BLOCKS, "jnp.where(allowed,", "jnp.where(allowed & (jnp.arange(stop) >= start),"),
    ),
    _mutant(
        "blocks forget the scale",
        "a scale of one's own is lost",
        edited(BLOCKS, "scores * scale", "scores * query.shape[-1] ** -0.5"),
    ),
    _mutant(
        "head forgets its scale",
        "the unscaled head is scaled",
        edited(f"{HEAD}.weights", "scale=self.scale", "scale=None"),
    ),
    _mutant(
        "values from the key matrix",
        "one of three projections used twice",
        edited(f"{HEAD}.__call__", "self.value(", "self.key("),
    ),
    _mutant(
        "cross-attention masked",
        "a context is hidden as if it were the future",
        edited(f"{MULTI}.__call__", "self.causal and context is None", "self.causal"),
    ),
    _mutant(
        "cross-attention to itself",
        "keys and values from x, the context unread",
        edited(f"{MULTI}._query_key_value", "context is not None", "context is NotImplemented"),
    ),
    _mutant(
        "fused matrix cut as key, query, value",
        "for query, key, value",
        edited(
            f"{MULTI}._query_key_value", "query, key, value = linear", "key, query, value = linear"
        ),
    ),
    _mutant(
        "interleaved parts",
        "columns taken as q k v q k v …",
        edited(
            f"{MULTI}._query_key_value",
            "query, key, value = linear_in_parts(self.qkv, x, 3)",
            "query, key, value = (self.qkv(x)[..., part::3] for part in range(3))",
        ),
    ),
    _mutant(
        "heads cut without the swap",
        "[B T C] read as [B H T K]: time and heads mixed",
        edited(
            f"{MULTI}._split_heads",
            "x.reshape(batch, length, self.n_head, channels // self.n_head)",
            "x.reshape(batch, self.n_head, length, channels // self.n_head).swapaxes(1, 2)",
        ),
    ),
    _mutant(
        "heads interleaved",
        "head h takes channels h, h + H, …",
        edited(
            f"{MULTI}._split_heads",
            "x.reshape(batch, length, self.n_head, channels // self.n_head)",
            "x.reshape(batch, length, channels // self.n_head, self.n_head).swapaxes(2, 3)",
        ),
    ),
    _mutant(
        "heads joined without the swap",
        "[B H T K] read as [B T C]",
        edited(f"{MULTI}.__call__", "heads.swapaxes(1, 2).reshape", "heads.reshape"),
    ),
    _mutant(
        "no projection",
        "the joined heads are the output",
        edited(f"{MULTI}.__call__", "self.proj(joined)", "joined"),
    ),
    _mutant(
        "projection without bias",
        "proj.bias unread",
        edited(f"{MULTI}.__call__", "self.proj(joined)", "(joined @ self.proj.kernel[...])"),
    ),
    _mutant(
        "query, key, value without bias",
        "qkv.bias unread",
        edited(
            f"{MULTI}._query_key_value",
            "linear_in_parts(self.qkv, x, 3)",
            "jnp.split(x @ self.qkv.kernel[...], 3, axis=-1)",
        ),
    ),
    _mutant(
        "keys without bias",
        "the middle third of qkv.bias unread",
        edited(
            f"{MULTI}._query_key_value",
            "if context is not None:",
            "if self.qkv.bias is not None and context is None:\n"
            "        key = key - jnp.split(self.qkv.bias[...], 3)[1]\n"
            "    if context is not None:",
        ),
        equivalent="a key's bias moves all scores of a row alike, and softmax forgets it",
    ),
    _mutant(
        "queries scaled, not scores",
        "the factor applied before the product, as torch's fused kernel does",
        edited(
            WEIGHTS, "query, key, preferred_element_type=wide) * factor", "query * factor, key)"
        ),
        equivalent="the product is linear: rounding differs, nothing else",
    ),
]

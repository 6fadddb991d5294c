"""Scaled dot-product attention: pure functions first, then the lecture's modules.

Letters: B batch, T query positions, S key/value positions, C channels, H heads, K head size.
"""

from functools import partial
from numbers import Real
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jax_attn.domains import COUNT, FINITE, SIZE
from jax_attn.nn.blocked import blocked_attention
from jax_attn.nn.dropout import dropout
from jax_attn.nn.flash import (
    IMPLEMENTATIONS,
    Implementation,
    accelerator,
    choose_implementation,
    cudnn_attention,
    tpu_flash_attention,
)
from jax_attn.nn.inputs import check_arrays, check_context, check_mask, check_rngs
from jax_attn.nn.key_value_cache import KeyValues
from jax_attn.nn.layers import linear, uniform_fan_in
from jax_attn.nn.ops.products import linear_in_parts
from jax_attn.room import require_room


def causal_mask(length: int) -> Bool[Array, "T T"]:
    """True where a query (row) may look at a key (column): at itself and before.

    For length 3::

        1 0 0
        1 1 0
        1 1 1

    InputError for a negative length, and for one whose square takes more memory than there is.
    """
    length = COUNT.check("length", length)
    require_room(length**2, f"a mask of length {length:,}")
    return jnp.tril(jnp.ones((length, length), bool))


def attention_weights(
    query: Float[Array, "... T K"],
    key: Float[Array, "... S K"],
    *,
    mask: Bool[Array, "... #T #S"] | None = None,
    scale: float | None = None,
    axis: int = -1,
) -> Float[Array, "... T S"]:
    """The lecture's `wei`: softmax(query @ key.T * scale), -inf where `mask` is False.

    `scale` None means K**-0.5; 1.0 means unscaled. The softmax runs in at least float32 and the
    result has the query's dtype. A row in which nothing may be seen is NaN, as in torch.
    `axis=-2` normalises columns instead of rows, a mistake that some published notebooks print.

    InputError for a scale that is not finite.
    """
    check_arrays(query=query, key=key)
    if mask is not None:
        check_mask(mask)
    factor = _factor(query, scale)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("...tk,...sk->...ts", query, key, preferred_element_type=wide) * factor
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=axis).astype(query.dtype)


def attend(
    weights: Float[Array, "... T S"], value: Float[Array, "... S K"]
) -> Float[Array, "... T K"]:
    """The weighted sums of the values: weights @ value."""
    check_arrays(weights=weights, value=value)
    return weights @ value


def dot_product_attention(
    query: Float[Array, "... T K"],
    key: Float[Array, "... S K"],
    value: Float[Array, "... S K"],
    *,
    causal: bool = True,
    scale: float | None = None,
    implementation: Literal["auto"] | Implementation = "auto",
) -> Float[Array, "... T K"]:
    """attend(attention_weights(...)) without keeping all the weights, where that saves anything.

    `implementation`: "explicit" forms the whole [T S] matrix; "blocked" computes no more of its
    masked half than it must; "cudnn" (GPU, bfloat16 or float16) and "tpu_flash" are the makers'
    kernels; "auto" takes what `choose_implementation` chooses for the device that the program is
    compiled for. All but "explicit" are for causal attention.

    Causal attention needs T == S, else ValueError. InputError for a scale that is not finite.
    """
    check_arrays(query=query, key=key, value=value)
    length, source_length = query.shape[-2], key.shape[-2]
    if causal and length != source_length:
        raise ValueError(
            f"causal attention needs as many keys as queries, got {source_length} keys for "
            f"{length} queries; pass causal=False for cross-attention"
        )
    if implementation not in ("auto", *IMPLEMENTATIONS):
        known = ", ".join(("auto", *IMPLEMENTATIONS))
        raise ValueError(f"implementation {implementation!r} is unknown; choose one of {known}")
    if not causal:
        if implementation not in ("auto", "explicit"):
            raise ValueError(f"implementation {implementation!r} is for causal attention only")
        return attend(attention_weights(query, key, scale=scale), value)
    factor = _factor(query, scale)
    if implementation != "auto":
        return KERNELS[implementation](query, key, value, factor)
    return _fastest_attention(query, key, value, factor)


def _factor(query: Array, scale: Any) -> Any:
    """Of the scores. What a program computes by itself cannot be looked at."""
    if scale is None:
        return query.shape[-1] ** -0.5
    return FINITE.check("scale", scale) if isinstance(scale, Real) else scale


def explicit_attention(
    query: Float[Array, "... T K"],
    key: Float[Array, "... T K"],
    value: Float[Array, "... T K"],
    scale: float,
) -> Float[Array, "... T K"]:
    """Causal attention with all its weights formed, the masked half too."""
    mask = causal_mask(query.shape[-2])
    return attend(attention_weights(query, key, mask=mask, scale=scale), value)


KERNELS: dict[str, Any] = {  # functions of query, key, value and scale
    "explicit": explicit_attention,
    "blocked": blocked_attention,
    "cudnn": cudnn_attention,
    "tpu_flash": tpu_flash_attention,
}


def _fastest_attention(query: Array, key: Array, value: Array, scale: float) -> Array:
    """By what `choose_implementation` chooses for the device that the arrays are on."""
    device = accelerator()
    length, head_size = query.shape[-2:]
    elsewhere, _ = choose_implementation(length, head_size, query.dtype, None)
    if device is not None:
        there, _ = choose_implementation(length, head_size, query.dtype, device)
        if there != elsewhere:
            return _by_device(query, key, value, scale, device.platform, there, elsewhere)
    return KERNELS[elsewhere](query, key, value, scale)


@partial(jax.jit, static_argnums=(3, 4, 5, 6))  # outside of one, JAX asks its default device
def _by_device(query, key, value, scale, platform, there, elsewhere):
    by_platform = {platform: partial(KERNELS[there], scale=scale)}
    default = partial(KERNELS[elsewhere], scale=scale)
    return jax.lax.platform_dependent(query, key, value, **by_platform, default=default)


class Head(nnx.Module):
    """One attention head, as in the lecture: key, query and value are projections without bias.

    Args:
        in_features: C, channels of the input (and of the context).
        head_size: K, channels of query, key, value and output.
        causal: position t sees positions 0..t only. False gives an encoder's head.
        scale: multiplies the scores; None means K**-0.5, 1.0 the unscaled head of the lecture.
        dropout_rate: probability of dropping an attention weight, once `train()` is called.
    """

    def __init__(
        self,
        in_features: int,
        head_size: int,
        *,
        causal: bool = True,
        scale: float | None = None,
        dropout_rate: float = 0.0,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        SIZE.check("in_features", in_features)
        SIZE.check("head_size", head_size)
        check_rngs(rngs)

        def projection() -> nnx.Linear:
            return linear(
                in_features,
                head_size,
                use_bias=False,
                kernel_init=uniform_fan_in,
                rngs=rngs,
                dtype=dtype,
                param_dtype=param_dtype,
            )

        self.key = projection()
        self.query = projection()
        self.value = projection()
        self.dropout = dropout(dropout_rate, rngs)
        self.in_features = in_features
        self.causal = causal
        self.scale = scale

    def weights(
        self, x: Float[Array, "B T C"], context: Float[Array, "B S C"] | None = None
    ) -> Float[Array, "B T S"]:
        """The weights this head uses, before dropout; rows sum to 1."""
        check_context(x, context, self.in_features)
        source = x if context is None else context
        mask = causal_mask(x.shape[1]) if self.causal and context is None else None
        return attention_weights(self.query(x), self.key(source), mask=mask, scale=self.scale)

    def __call__(
        self, x: Float[Array, "B T C"], context: Float[Array, "B S C"] | None = None
    ) -> Float[Array, "B T K"]:
        """Self-attention, or cross-attention to a context, all of which every position sees."""
        weights = self.dropout(self.weights(x, context))
        return attend(weights, self.value(x if context is None else context))

    def keys_values(self, x: Float[Array, "B T C"]) -> KeyValues:
        """What later positions look back on: keys and values [B T K]."""
        return KeyValues(self.key(x), self.value(x))

    def step(
        self, x: Float[Array, "B 1 C"], past: KeyValues, position: Int[Array, ""]
    ) -> tuple[Float[Array, "B 1 K"], KeyValues]:
        """The output at one position, and `past` with that position's key and value in it."""
        past = past.write(self.keys_values(x), position)
        weights = attention_weights(
            self.query(x), past.keys, mask=past.seen(position), scale=self.scale
        )
        return attend(weights, past.values), past


class MultiHeadAttention(nnx.Module):
    """H heads side by side and a projection; the query, key and value matrices are one.

    The columns of `qkv.kernel` [C 3C] are query, key, value; inside each, head after head. That is
    GPT-2's order, and the concatenation of the lecture's per-head matrices.

    Args:
        n_embd: C, channels of input and output.
        n_head: H; must divide n_embd, else ValueError.
        causal: position t sees positions 0..t only.
        dropout_rate: on the attention weights and on the output, once `train()` is called.
        qkv_bias: bias on query, key and value, as in GPT-2; the lecture has none.
        proj_bias: bias on the projection.
        scale: multiplies the scores; None means K**-0.5.
        kernel_init, proj_init: initial matrices; None means torch's nn.Linear.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        *,
        causal: bool = True,
        dropout_rate: float = 0.0,
        qkv_bias: bool = False,
        proj_bias: bool = True,
        scale: float | None = None,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: jax.nn.initializers.Initializer = uniform_fan_in,
        proj_init: jax.nn.initializers.Initializer = uniform_fan_in,
    ) -> None:
        SIZE.check("n_embd", n_embd)
        if n_embd % SIZE.check("n_head", n_head):
            raise ValueError(f"n_embd {n_embd} is not divisible by n_head {n_head}")
        check_rngs(rngs)
        self.qkv = linear(
            n_embd,
            3 * n_embd,
            use_bias=qkv_bias,
            kernel_init=kernel_init,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        self.proj = linear(
            n_embd,
            n_embd,
            use_bias=proj_bias,
            kernel_init=proj_init,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        self.attention_dropout = dropout(dropout_rate, rngs)
        self.output_dropout = dropout(dropout_rate, rngs)
        self.n_embd = n_embd
        self.n_head = n_head
        self.causal = causal
        self.scale = scale

    def _split_heads(self, x: Float[Array, "B T C"]) -> Float[Array, "B H T K"]:
        batch, length, channels = x.shape
        heads = x.reshape(batch, length, self.n_head, channels // self.n_head)
        return heads.swapaxes(1, 2)

    def _query_key_value(
        self, x: Float[Array, "B T C"], context: Float[Array, "B S C"] | None
    ) -> tuple[Float[Array, "B H T K"], Float[Array, "B H S K"], Float[Array, "B H S K"]]:
        check_context(x, context, self.n_embd)
        query, key, value = linear_in_parts(self.qkv, x, 3)
        if context is not None:
            _, key, value = linear_in_parts(self.qkv, context, 3)
        return self._split_heads(query), self._split_heads(key), self._split_heads(value)

    def weights(
        self, x: Float[Array, "B T C"], context: Float[Array, "B S C"] | None = None
    ) -> Float[Array, "B H T S"]:
        """The weights of every head, before dropout; rows sum to 1."""
        query, key, _ = self._query_key_value(x, context)
        mask = causal_mask(x.shape[1]) if self.causal and context is None else None
        return attention_weights(query, key, mask=mask, scale=self.scale)

    def __call__(
        self, x: Float[Array, "B T C"], context: Float[Array, "B S C"] | None = None
    ) -> Float[Array, "B T C"]:
        """Self-attention, or cross-attention to a context, all of which every position sees."""
        causal = self.causal and context is None
        query, key, value = self._query_key_value(x, context)
        if self.attention_dropout.rate > 0 and not self.attention_dropout.deterministic:
            mask = causal_mask(x.shape[1]) if causal else None
            weights = attention_weights(query, key, mask=mask, scale=self.scale)
            heads = attend(self.attention_dropout(weights), value)
        else:
            heads = dot_product_attention(query, key, value, causal=causal, scale=self.scale)
        joined = heads.swapaxes(1, 2).reshape(x.shape)
        return self.output_dropout(self.proj(joined))

    def keys_values(self, x: Float[Array, "B T C"]) -> KeyValues:
        """What later positions look back on: keys and values [B*H T K]."""
        _, key, value = self._query_key_value(x, None)
        return KeyValues(_merged(key), _merged(value))

    def step(
        self, x: Float[Array, "B 1 C"], past: KeyValues, position: Int[Array, ""]
    ) -> tuple[Float[Array, "B 1 C"], KeyValues]:
        """The output at one position, and `past` with that position's key and value in it."""
        # One product on every device: a single position's result costs nothing to take apart.
        query, key, value = map(self._split_heads, jnp.split(self.qkv(x), 3, axis=-1))
        past = past.write(KeyValues(_merged(key), _merged(value)), position)
        weights = attention_weights(
            _merged(query), past.keys, mask=past.seen(position), scale=self.scale
        )
        return self.proj(attend(weights, past.values).reshape(x.shape)), past


def _merged(x: Float[Array, "B H T K"]) -> Float[Array, "B*H T K"]:
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

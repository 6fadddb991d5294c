"""Attention with a padding mask and with biases by distance, in NNX."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from jax import Array
from torch import Tensor, nn

from parity_tests.harness.bridge import LINEAR, Rule
from parity_tests.ports.perceptrons import linear
from parity_tests.ports.planting import nnx_class
from parity_tests.ports.port import Fault, Port, normal

KERNELS = (Rule("**.weight", "**.kernel", LINEAR), Rule("**.bias", "**.bias"))
SAME_NAMES = {"**": "**"}
LENGTHS = np.arange(5) < np.array([[5], [3]])  # [B S]: True = a token, False = padding


class TorchEncoder(nn.Module):
    """Self-attention that is given which tokens are padding."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 6) for _ in range(3))
        self.proj, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, x: Tensor, is_token: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 3)) for f in (self.query, self.key, self.value))
        wei = torch.einsum("bthk,bshk->bhts", q, k) * 3**-0.5
        wei = wei.masked_fill(~is_token[:, None, None], -torch.inf).softmax(-1)
        return self.norm(x + self.proj(torch.einsum("bhts,bshk->bthk", wei, v).flatten(-2)))


class Encoder(nnx.Module):
    def __init__(self) -> None:
        self.query, self.key, self.value, self.proj = (linear(6, 6) for _ in range(4))
        self.norm = nnx.LayerNorm(6, epsilon=1e-5, rngs=nnx.Rngs(0), param_dtype=jnp.float64)

    def __call__(self, x: Array, is_token: Array) -> Array:
        q, k, v = (self.heads(f(x)) for f in (self.query, self.key, self.value))
        scores = jnp.einsum("bthk,bshk->bhts", q, k) * self.scale()
        wei = self.softmax(jnp.where(self.may_look(is_token), scores, -jnp.inf))
        return self.norm(x + self.proj(self.joined(jnp.einsum("bhts,bshk->bthk", wei, v))))

    def heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], 2, 3)

    def joined(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], 6)

    def scale(self) -> float:
        return 3**-0.5

    def may_look(self, is_token: Array) -> Array:
        return is_token[:, None, None]

    def softmax(self, scores: Array) -> Array:
        return jax.nn.softmax(scores, axis=-1)


class PaddingSeen(Encoder):
    def may_look(self, is_token: Array) -> Array:
        return jnp.ones_like(is_token)[:, None, None]


class WrongPolarity(Encoder):
    def may_look(self, is_token: Array) -> Array:
        return ~is_token[:, None, None] | is_token.all(1)[:, None, None, None]


class OverQueries(Encoder):
    """Finite, since a column of padding is left out."""

    def softmax(self, scores: Array) -> Array:
        masked = jnp.isinf(scores)
        return jnp.where(masked, 0, jax.nn.softmax(jnp.where(masked, 0, scores), axis=-2))


class ScaledByWidth(Encoder):
    def scale(self) -> float:
        return 6**-0.5


class HeadsLast(Encoder):
    """Channels dealt out to the heads in turn."""

    def heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], 3, 2).swapaxes(-1, -2)


class JoinedHeadsLast(Encoder):
    def joined(self, x: Array) -> Array:
        return x.swapaxes(-1, -2).reshape(*x.shape[:2], 6)


class Finite(Encoder):
    """A mask value that is not small enough."""

    def softmax(self, scores: Array) -> Array:
        return jax.nn.softmax(jnp.maximum(scores, -9.0), axis=-1)


ENCODER = Port(
    "encoder with a padding mask",
    "NNX",
    TorchEncoder,
    Encoder,
    (normal(2, 5, 6), LENGTHS),
    (Rule("norm.weight", "norm.scale"), *KERNELS),
    SAME_NAMES,
    (
        Fault("padding is seen", "model", nnx_class("", PaddingSeen)),
        Fault("only padding is seen", "model", nnx_class("", WrongPolarity)),
        Fault("softmax over the queries", "model", nnx_class("", OverQueries)),
        Fault("scaled by the width", "model", nnx_class("", ScaledByWidth)),
        Fault("heads last", "model", nnx_class("", HeadsLast)),
        Fault("heads joined last", "model", nnx_class("", JoinedHeadsLast)),
        Fault("a mask of -9", "model", nnx_class("", Finite)),
    ),
)


class TorchRelative(nn.Module):
    """As in T5: a learned bias by distance, no scale; as in ALiBi, a slope beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.packed, self.bias = nn.Linear(6, 18, bias=False), nn.Embedding(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.packed(x).unflatten(-1, (3, 2, 3)).unbind(2)
        distance = torch.arange(x.shape[1]) - torch.arange(x.shape[1])[:, None]
        scores = torch.einsum("bthk,bshk->bhts", q, k)
        scores = scores + self.bias(distance.clamp(-3, 3) + 3).permute(2, 0, 1)
        slopes = torch.tensor([0.5, 0.25], dtype=x.dtype)[:, None, None]
        wei = (scores - slopes * distance.abs()).softmax(-1)
        return torch.einsum("bhts,bshk->bthk", wei, v).flatten(-2)


class Relative(nnx.Module):
    slopes = (0.5, 0.25)
    order = (0, 1, 2)

    def __init__(self) -> None:
        self.packed = linear(6, 18, False)
        self.bias = nnx.Embed(7, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64)

    def __call__(self, x: Array) -> Array:
        B, T, _ = x.shape
        parts = jnp.moveaxis(self.packed(x).reshape(B, T, 3, 2, 3), 2, 0)
        q, k, v = (parts[i] for i in self.order)
        distance = jnp.arange(T) - jnp.arange(T)[:, None]
        scores = jnp.einsum("bthk,bshk->bhts", q, k) + self.bias(self.bucket(distance)).transpose(
            2, 0, 1
        )
        wei = jax.nn.softmax(
            scores - jnp.array(self.slopes)[:, None, None] * jnp.abs(distance), axis=-1
        )
        return jnp.einsum("bhts,bshk->bthk", wei, v).reshape(B, T, -1)

    def bucket(self, distance: Array) -> Array:
        return jnp.clip(distance, -3, 3) + 3


class Mirrored(Relative):
    def bucket(self, distance: Array) -> Array:
        return jnp.clip(-distance, -3, 3) + 3


class QueriesAndKeysSwapped(Relative):
    order = (1, 0, 2)


class SlopesByOne(Relative):
    slopes = (0.25, 0.125)


class ShiftedEmbed(nnx.Embed):
    def __call__(self, inputs: Array, out_sharding: object = None) -> Array:
        return self.embedding[...][jnp.maximum(inputs - 1, 0)]


RELATIVE = Port(
    "relative biases by distance, packed projections",
    "NNX",
    TorchRelative,
    Relative,
    normal(2, 5, 6),
    (Rule("bias.weight", "bias.embedding"), *KERNELS),
    SAME_NAMES,
    (
        Fault("distances of the other sign", "model", nnx_class("", Mirrored)),
        Fault("queries and keys swapped", "model", nnx_class("", QueriesAndKeysSwapped)),
        Fault("slopes half as large", "model", nnx_class("", SlopesByOne)),
        Fault("embeddings shifted by one", "bias", nnx_class("bias", ShiftedEmbed)),
    ),
)


PORTS = (ENCODER, RELATIVE)

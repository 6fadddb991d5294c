"""The lecture's averaging and attention cells with this package's functions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jax_attn.interop import load_state_dict
from jax_attn.nn.attention import Head, attend, attention_weights, causal_mask
from jax_attn.nn.averaging import (
    averaging_weights,
    running_mean_loop,
    running_mean_matmul,
    running_mean_softmax,
    softmax_averaging_weights,
)
from jax_attn.torch_replay.random import Generator

ManualSeed = Callable[[int], Generator]  # what stands for torch.manual_seed
Values = dict[str, Any]  # by the names of the published numbers


@dataclass(frozen=True)
class Demonstration:
    title: str
    compute: Callable[[ManualSeed], Values]


def random_vectors(manual_seed: ManualSeed) -> Values:
    x = manual_seed(1337).randn((4, 8, 2))
    return {"x.shape": x.shape, "x[0]": x[0], "x": x}


def averaging_by_product(manual_seed: ManualSeed) -> Values:
    ways = {
        "ones": jnp.ones((3, 3)),
        "lower triangle": causal_mask(3).astype(jnp.float32),
        "averaging": averaging_weights(3),
    }
    values: Values = dict(ways)
    for seed in (13, 42):
        b = jnp.asarray(manual_seed(seed).randint(0, 10, (3, 2)), jnp.float32)
        values[f"b, seed {seed}"] = b
        values |= {f"{way} @ b, seed {seed}": a @ b for way, a in ways.items()}
    a, c = ways["ones"], ways["ones"] @ b
    values |= {"a.shape": a.shape, "b.shape": b.shape, "c.shape": c.shape}

    generator = manual_seed(1337)
    generator.randn((4, 8, 2))
    b = generator.randn((5, 5))
    return values | {
        "averaging_weights(5)": averaging_weights(5),
        "b, drawn after x": b,
        "averaging_weights(5) @ b": averaging_weights(5) @ b,
    }


def averaging_three_ways(manual_seed: ManualSeed) -> Values:
    x = jnp.asarray(manual_seed(1337).randn((4, 8, 2)))
    loop, matmul, softmax = running_mean_loop(x), running_mean_matmul(x), running_mean_softmax(x)
    return {
        "running_mean_loop(x)[0]": loop[0],
        "running_mean_matmul(x)[0]": matmul[0],
        "running_mean_softmax(x)[0]": softmax[0],
        "running_mean_loop(x).shape": loop.shape,
        "running_mean_matmul(x).shape": matmul.shape,
        "running_mean_softmax(x).shape": softmax.shape,
        "mean of x[0][:3] by hand": (x[0, 0] + x[0, 1] + x[0, 2]) / 3,
        "running_mean_loop(x)[0][2]": loop[0, 2],
        "loop and matmul agree": jnp.allclose(loop, matmul),
        "matmul and softmax agree": jnp.allclose(matmul, softmax),
        "loop and softmax agree": jnp.allclose(loop, softmax),
    }


def masks_and_softmax(manual_seed: ManualSeed) -> Values:
    del manual_seed  # nothing here is random
    mask, zeros, averages = causal_mask(8), jnp.zeros((8, 8)), averaging_weights(8)
    masked_averages = jnp.where(mask, averages, -jnp.inf)
    return {
        "averaging_weights(8)": averages,
        "causal_mask(8)": mask,
        "zeros": zeros,
        "masked zeros": jnp.where(mask, zeros, -jnp.inf),
        "softmax_averaging_weights(8)": softmax_averaging_weights(8),
        "masked averages": masked_averages,
        "softmax of masked averages": jax.nn.softmax(masked_averages, axis=-1),
    }


def self_attention(manual_seed: ManualSeed) -> Values:
    """One unscaled head. The notebooks' softmax over dim=1 makes columns sum to 1, not rows."""
    generator = manual_seed(1337)
    x = jnp.asarray(generator.randn((4, 8, 32)))
    head = Head(32, 16, scale=1.0, rngs=nnx.Rngs(0))
    drawn = {f"{name}.weight": generator.linear(32, 16, False)[0] for name in HEAD_LAYERS}
    load_state_dict(head, drawn, layout="lecture")
    mask = causal_mask(8)
    wei = attention_weights(head.query(x), head.key(x), mask=mask, scale=head.scale, axis=-2)
    v = head.value(x)
    return {
        "wei[0]": wei[0],
        "(wei @ x).shape": (wei @ x).shape,
        "(wei @ x)[0][0]": (wei @ x)[0, 0],
        "v[0][:4]": v[0, :4],
        "attend(wei, v).shape": attend(wei, v).shape,
    }


HEAD_LAYERS = ("key", "query", "value")  # in the order of their construction

# Names, and what their cells drew and multiplied. The draws since the seed are inferred: 512 for
# each further tensor of this size.
SCALING = {
    "variances, unscaled": (3 * 512, 1.0),
    "variances, scaled": (11 * 512, 16**-0.5),
    "variances, scaled, 004": (8 * 512, 16**-0.5),
}


def scaling(manual_seed: ManualSeed) -> Values:
    """Variances of k, q and wei = q @ k.T * scale: K = 16 without scaling, 1 with it."""
    values: Values = {}
    for name, (draws, scale) in SCALING.items():
        generator = manual_seed(1337)
        generator.rand(draws)
        k, q = (jnp.asarray(generator.randn((4, 8, 16))) for _ in range(2))
        wei = q @ k.swapaxes(-2, -1) * scale
        values[name] = jnp.stack([tensor.var(ddof=1) for tensor in (k, q, wei)])
    return values


def saturated_softmax(manual_seed: ManualSeed) -> Values:
    del manual_seed
    four, five = jnp.array([-1.0, 0.2, 0.3, 0.75]), jnp.array([0.1, -0.2, 0.3, -0.2, 0.5])
    return {
        "softmax": jax.nn.softmax(four),
        "softmax, sharpened by 8": jax.nn.softmax(four * 8),
        "softmax of five": jax.nn.softmax(five),
        "softmax of five, sharpened by 100": jax.nn.softmax(five * 100),
        "a[-2:]": jnp.array([1, 2, 3, 4, 5])[-2:],
    }


TENSOR_DEMONSTRATIONS = (
    Demonstration("A batch of random vectors", random_vectors),
    Demonstration("Sums and averages by a matrix product", averaging_by_product),
    Demonstration("Averaging three ways", averaging_three_ways),
    Demonstration("Masks and softmax", masks_and_softmax),
    Demonstration("Self-attention, as the notebooks normalise it", self_attention),
    Demonstration("Why the scores are scaled", scaling),
    Demonstration("Softmax, diffuse and saturated", saturated_softmax),
)

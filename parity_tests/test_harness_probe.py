"""Unit vectors tell a missing transpose, which loads without complaint where a matrix is square."""

import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from parity_tests.harness.bridge import LINEAR, Bridge, Rule
from parity_tests.harness.probe import probe

LINEAR_RULES = [Rule("weight", "kernel", LINEAR), Rule("bias", "bias")]


def _square() -> tuple[nn.Linear, nnx.Linear]:
    torch.manual_seed(0)
    return nn.Linear(5, 5), nnx.Linear(5, 5, rngs=nnx.Rngs(0))


def _probe(ref: nn.Linear, port: nnx.Linear) -> str:
    report = probe(lambda x: ref(torch.from_numpy(x)), lambda x: port(jnp.asarray(x)), 5)
    assert report.ok == (str(report) == "the same matrix and bias")
    return str(report)


def test_probe_names_a_missing_transpose() -> None:
    """The transposed square matrix loads without complaint; unit vectors see it."""
    ref, port = _square()
    Bridge(LINEAR_RULES).to_port(ref, port)
    assert _probe(ref, port) == "the same matrix and bias"
    Bridge([Rule("weight", "kernel"), Rule("bias", "bias")]).to_port(ref, port)
    assert _probe(ref, port).startswith("a transpose is missing")


def test_probe_names_permutations_bias_and_other_matrices() -> None:
    ref, port = _square()
    Bridge(LINEAR_RULES).to_port(ref, port)
    kernel = port.kernel[...]
    assert port.bias is not None
    port.bias[...] = port.bias[...] + 0.01
    assert _probe(ref, port) == "the bias differs; the matrix is the same"
    port.kernel[...] = kernel[jnp.array([1, 0, 2, 3, 4])]
    assert _probe(ref, port) == (
        "the inputs are permuted: the port's are the reference's [1, 0, 2, 3, 4]"
    )
    port.kernel[...] = kernel[:, jnp.array([4, 0, 1, 2, 3])]
    assert _probe(ref, port).startswith("the outputs are permuted: the port's are the reference's")
    port.kernel[...] = kernel * 1.001
    assert _probe(ref, port) == "another matrix: rms of the difference 1.0e-03 relative"

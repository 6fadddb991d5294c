"""Gradients with respect to a port's weights, taken back to the reference's through a rule."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from parity_tests.harness.links import Link
from parity_tests.harness.maps import Arrays, as_tuple
from parity_tests.harness.rules import BridgeError
from parity_tests.harness.tensors import to_numpy


def gradients_of_reference(
    link: Link,
    gradients: Sequence[NDArray[Any]],
    state: Mapping[str, Any] | None,
) -> Arrays:
    """By the rule's own `gradient`, or JAX's derivative of its `to_port` at the weights.

    Without `state`, the reference's weights by name, only a map will do whose derivative is the
    same everywhere.
    """
    own = link.rule.map.gradient
    if own is not None:
        results = link.called("gradient", own, gradients, link.references)
        return tuple(np.ascontiguousarray(x) for x in results)
    if state is not None and all(name in state for name in link.references):
        return _derivative(link, gradients, [to_numpy(state[name]) for name in link.references])
    rng = np.random.default_rng(0)
    shapes = [(x.shape, x.dtype) for x in link.to_reference(gradients)]
    results = [
        _derivative(link, gradients, [rng.normal(size=s).astype(dtype) for s, dtype in shapes])
        for _ in range(2)
    ]
    if not all(map(np.array_equal, *results)):
        raise BridgeError(
            f"the derivative of the rule {link.rule} depends on the weights: "
            "give the reference as well, map_gradients(gradients, reference)"
        )
    return results[0]


def _derivative(link: Link, gradients: Sequence[Any], weights: Sequence[Any]) -> Arrays:
    function = link.rule.map.to_port
    try:
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            outputs, vjp = jax.vjp(
                lambda *xs: tuple(map(jnp.asarray, as_tuple(function(*xs)))),
                *map(jnp.asarray, weights),
            )
            cotangents = tuple(
                jnp.asarray(g, y.dtype) for g, y in zip(gradients, outputs, strict=True)
            )
            return tuple(np.asarray(x) for x in vjp(cotangents))
    except jax.errors.JAXTypeError as error:  # NumPy's own functions take no tracer
        raise BridgeError(
            f"JAX cannot differentiate to_port of the rule {link.rule}: "
            "write it with jax.numpy or methods of arrays, or give `gradient`"
        ) from error

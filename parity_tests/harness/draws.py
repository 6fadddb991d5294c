"""Where a JAX program draws random numbers that its result depends on."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from parity_tests.harness.calls import run
from parity_tests.harness.copies import copy_of
from parity_tests.harness.islands import inner_programs, line_of
from parity_tests.harness.trees import arrays, map_arrays

_RANDOM = {"random_bits", "random_gamma", "threefry2x32", "rng_bit_generator", "rng_uniform"}


def random_draws(port: Any, inputs: Any) -> tuple[str, ...]:
    """ "stochastic.py:93 (__call__)", for each line that draws; `inputs` as `locate` takes them.

    Also with a key that never changes. What comes to nothing, as dropout at a rate of zero, is not
    named. The port is traced, and not changed.
    """

    def program() -> Any:
        return arrays(run(copy_of(port), map_arrays(jnp.asarray, inputs)))

    jaxpr = jax.make_jaxpr(program)().jaxpr
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return tuple(dict.fromkeys(_walk(jaxpr, "the port")))


def _walk(jaxpr: Any, place: str) -> Iterator[str]:
    for equation in jaxpr.eqns:
        here = line_of(equation) or place
        if equation.primitive.name in _RANDOM:
            yield here
            continue
        for value in equation.params.values():
            for body in inner_programs(value):
                yield from _walk(body, here)

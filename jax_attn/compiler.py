"""`jax.jit` with the compiler options that pay on the device in use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer

# On CPUs, XLA hands matrix products to YNNPACK, which is two to four times slower for them than
# Eigen in float32; for reductions YNNPACK is the faster one. This leaves it the reductions only.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


@functools.cache
def compiler_options() -> dict[str, str]:
    """Options for the default backend; none where this jaxlib does not know them."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=CPU_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return CPU_OPTIONS


class Compiled:
    """A decorator: `jax.jit` whose options are looked up at the first call.

    At import the backend is not known, and asking for it would start it.
    """

    def __init__(self, function: Callable[..., Any], **jit_arguments: Any) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._jit_arguments = jit_arguments

    @functools.cached_property
    def _jitted(self) -> Any:
        return jax.jit(self._function, compiler_options=compiler_options(), **self._jit_arguments)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves = jax.tree.leaves((args, kwargs))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            # Inside another program the options are that program's to choose.
            return jax.jit(self._function, **self._jit_arguments)(*args, **kwargs)
        return self._jitted(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        return self._jitted.lower(*args, **kwargs)

    def clear_cache(self) -> None:
        self._jitted.clear_cache()


def compiled(**jit_arguments: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """`@compiled(static_argnames=...)` in the place of `@partial(jax.jit, static_argnames=...)`."""
    return functools.partial(Compiled, **jit_arguments)

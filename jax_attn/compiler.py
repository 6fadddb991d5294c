"""`jax.jit` with the compiler options that pay on the device in use."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer

YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
ONEDNN = "xla_cpu_experimental_onednn_fusion_type"

# Left to itself, XLA hands matrix products on a CPU to YNNPACK, which is two to four times slower
# for float32 ones than Eigen; for reductions YNNPACK is the faster one. This leaves it those only.
CPU_OPTIONS = {YNNPACK: "LIBRARY_FUSION_TYPE_REDUCE"}

# For training, whose program runs for minutes: float32 products to oneDNN, which takes half of
# Eigen's time for attention's many small ones, and those of bfloat16 to YNNPACK, the only one here
# that uses the processor's instructions for them. Each product by itself: given one with its
# surroundings that it cannot compile, oneDNN ends the process. JAX cannot keep programs with oneDNN
# in them from run to run, so they are compiled anew, some four seconds; LLVM's first level takes a
# fifth less of it than its third, and the steps take as long. (Those of generation take longer.)
CPU_TRAINING_OPTIONS = {
    YNNPACK: "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    ONEDNN: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    "xla_cpu_use_onednn": "True",
    "xla_backend_optimization_level": "1",
}
warnings.filterwarnings(
    "ignore",
    r"Error writing persistent compilation cache entry .* thunk kind: onednn-fusion",
    UserWarning,
)


@functools.cache
def compiler_options(*, training: bool = False) -> dict[str, str]:
    """Options for the default backend; none where this jaxlib does not know them."""
    if jax.default_backend() != "cpu":
        return {}
    options = CPU_TRAINING_OPTIONS if training else CPU_OPTIONS
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


class Compiled:
    """A decorator: `jax.jit` whose options are looked up at the first call.

    At import the backend is not known, and asking for it would start it.
    """

    def __init__(
        self, function: Callable[..., Any], *, training: bool = False, **jit_arguments: Any
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._training = training
        self._jit_arguments = jit_arguments

    @functools.cached_property
    def _jitted(self) -> Any:
        options = compiler_options(training=self._training)
        return jax.jit(self._function, compiler_options=options, **self._jit_arguments)

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

"""`jax.jit` with the compiler options that pay on the device in use."""

from __future__ import annotations

import ctypes
import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer

from jax_attn.nn.flash import accelerator

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

# For training on a GPU, so that the same step gives the same bits: sums by atomics, also those in
# cuDNN's attention, give way to ordered ones, and kernels are no longer chosen by stopwatch: XLA
# takes the first one that compiles. For products that is a good one if they all go to cuBLASLt,
# which names first what its heuristic thinks fastest.
GPU_TRAINING_OPTIONS = {
    "xla_gpu_exclude_nondeterministic_ops": "True",
    "xla_gpu_enable_triton_gemm": "False",
}
warnings.filterwarnings(
    "ignore",
    r"Error writing persistent compilation cache entry .* thunk kind: onednn-fusion",
    UserWarning,
)

BACKEND_COMPILED = "/jax/core/compile/backend_compile_duration"
LONG_COMPILATION_S = 1.0


def _return_memory(event: str, duration_secs: float, **_: str | int) -> None:
    """After a long compilation, gives what the C library still holds back to the system.

    Compiling a GPT's training program allocates some 200 MiB on threads of its own and frees them,
    but glibc keeps them: a training's own arrays would come on top.
    """
    if event != BACKEND_COMPILED or duration_secs < LONG_COMPILATION_S:
        return
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)


jax.monitoring.register_event_duration_secs_listener(_return_memory)


def compiler_options(*, training: bool = False) -> dict[str, str]:
    """Options for what programs are compiled for; none where this jaxlib does not know them."""
    device = accelerator()
    return dict(_known_options("cpu" if device is None else device.platform, training))


@functools.cache
def _known_options(platform: str, training: bool) -> dict[str, str]:
    if platform == "cpu":
        options = CPU_TRAINING_OPTIONS if training else CPU_OPTIONS
    elif platform in ("cuda", "rocm") and training:
        options = GPU_TRAINING_OPTIONS
    else:
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


class Compiled:
    """A decorator: `jax.jit` whose options are looked up when it is called.

    At import the backend is not known, and asking for it would start it; and a program may be
    compiled for another device than the one here (`flash.compiling_for`).
    """

    def __init__(
        self, function: Callable[..., Any], *, training: bool = False, **jit_arguments: Any
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._training = training
        self._jit_arguments = jit_arguments
        self._by_options: dict[tuple[tuple[str, str], ...], Any] = {}

    @property
    def _jitted(self) -> Any:
        options = compiler_options(training=self._training)
        key = tuple(options.items())
        if key not in self._by_options:
            self._by_options[key] = jax.jit(
                self._function, compiler_options=options, **self._jit_arguments
            )
        return self._by_options[key]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves = jax.tree.leaves((args, kwargs))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            # Inside another program the options are that program's to choose.
            return jax.jit(self._function, **self._jit_arguments)(*args, **kwargs)
        return self._jitted(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        return self._jitted.lower(*args, **kwargs)

    def clear_cache(self) -> None:
        for jitted in self._by_options.values():
            jitted.clear_cache()


def compiled(**jit_arguments: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """`@compiled(static_argnames=...)` in the place of `@partial(jax.jit, static_argnames=...)`."""
    return functools.partial(Compiled, **jit_arguments)

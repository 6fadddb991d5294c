"""Hand-written casts to float32 made harmless: in either framework they go to float64 instead.

Models cast their norms, softmaxes and rotary tables to float32 by hand, and JAX's own attention
does. In float64 such a place rounds, and a right port is then as far from its reference as a wrong
epsilon is: no budget tells the two apart. Here the name float32 itself is made to mean float64.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax._src.dtypes as jax_dtypes
import numpy as np
import torch
from torch.overrides import TorchFunctionMode

# A user context is one of JAX's own: no trace or program made with another value of it is used.
_lifted = jax.make_user_context(False)  # of this thread
_lock = threading.Lock()
_active = 0  # in all threads
_restore: list[Callable[[], None]] = []

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}
_Tensor: Any = torch.Tensor  # whose stubs do not list all methods
_WIDER_METHODS = {_Tensor.float: _Tensor.double, _Tensor.cfloat: _Tensor.cdouble}
_WIDER_TYPES = {"torch.FloatTensor": "torch.DoubleTensor"}  # what x.type() takes
_WIDER_NUMPY = {np.dtype("float32"): np.dtype("float64"), np.dtype("complex64"): np.dtype(complex)}
_BIT_CASTS = ("bitcast_convert_type", "view")  # the same bits under another name: no rounding


@contextmanager
def lift_float32() -> Iterator[None]:
    """While this lasts, float32 *means* float64 in torch and in JAX, and x64 is on.

    Build torch's models, and JAX's as far as they are not cast by `to_float64`, inside it, and run
    both inside it. `x.float()`, `dtype=torch.float32`, torch's default dtype, `module.to`,
    `x.astype(jnp.float32)`, `dtype="float32"`, `preferred_element_type` and the rest that takes a
    dtype ask for float64; complex64 becomes complex128. It may be nested and is left as it was
    found, by an exception too. Traces and programs made before are not used, nor are those made
    inside it used after.

    bfloat16 and float16 are left alone: they round in both frameworks as before. Out of reach: an
    array that is float32 already (it meets float64 ones without rounding again), NumPy's own
    arithmetic, `x.dtype == float32` in an `if`, TorchScript and compiled executables. In JAX
    `float32_islands` names what still rounds.

    Acts in the thread that enters it; but torch's default dtype belongs to the process, so that
    other threads' new torch tensors are float64 too while it lasts.
    """
    _enter()
    try:
        with jax.enable_x64(True), _lifted(True), _Lift():
            yield
    finally:
        _leave()


class _Lift(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.view:
            return func(*args, **kwargs)
        return _WIDER_METHODS.get(func, func)(
            *map(_wider, args), **{name: _wider(value) for name, value in kwargs.items()}
        )


def _wider(argument: Any) -> Any:
    if isinstance(argument, torch.dtype):
        return _WIDER.get(argument, argument)
    if argument is torch.FloatTensor:
        return torch.DoubleTensor
    return _WIDER_TYPES.get(argument, argument) if isinstance(argument, str) else argument


class _WiderInexact(dict):
    """JAX's table of what an integer becomes where a float is needed."""

    def get(self, key: Any, default: Any = None) -> Any:
        dtype = super().get(key, default)
        return _WIDER_NUMPY.get(dtype, dtype) if _lifted.value else dtype


def _enter() -> None:
    """The first thread in sets the hooks; they do nothing in a thread that is not inside.

    JAX: every dtype that a caller names goes through one function. torch: a function mode sees all
    calls, but for the default dtype.
    """
    global _active
    with _lock:
        _active += 1
        if _active > 1:
            return
        canonical: Any = jax_dtypes._maybe_canonicalize_explicit_dtype
        inexact: Any = jax_dtypes._dtype_to_inexact
        set_default: Any = torch.set_default_dtype
        default = torch.get_default_dtype()

        def canonical_and_wider(dtype: Any, fun_name: str) -> Any:
            if _lifted.value and fun_name not in _BIT_CASTS:
                dtype = _WIDER_NUMPY.get(dtype, dtype)
            return canonical(dtype, fun_name)

        def set_default_wider(dtype: Any) -> None:
            set_default(_WIDER.get(dtype, dtype) if _lifted.value else dtype)

        hooks = (
            (jax_dtypes, "_maybe_canonicalize_explicit_dtype", canonical_and_wider, canonical),
            (jax_dtypes, "_dtype_to_inexact", _WiderInexact(inexact), inexact),
            (torch, "set_default_dtype", set_default_wider, set_default),
        )
        for place, name, hook, _ in hooks:
            setattr(place, name, hook)
        set_default(_WIDER.get(default, default))

        def restore() -> None:
            for place, name, _, original in hooks:
                setattr(place, name, original)
            set_default(default)

        _restore.append(restore)


def _leave() -> None:
    global _active
    with _lock:
        _active -= 1
        if not _active:
            _restore.pop()()

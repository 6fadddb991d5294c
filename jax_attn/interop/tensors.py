"""Arrays of other libraries as NumPy's."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jax_attn.errors import InputError
from jax_attn.interop.names import plain_names


def arrays_of(state_dict: Mapping[str, Any]) -> dict[str, NDArray]:
    """Every value as a NumPy array of real numbers, by its plain name.

    InputError for what is no state dict, for two names of one parameter, and for a value that is no
    array of real numbers or holds none; it names the value.
    """
    if not isinstance(state_dict, Mapping):
        what = type(state_dict).__name__
        remedy = f"; give that {what}'s state_dict()" if hasattr(state_dict, "state_dict") else ""
        raise InputError(f"a state dict is a mapping of names to arrays, not {what}{remedy}")
    for name in state_dict:
        if not isinstance(name, str):
            raise InputError(f"names in a state dict are strings; got {name!r:.40}")
    named = plain_names(state_dict)
    return {name: _array(given, state_dict[given]) for name, given in named.items()}


def _array(name: str, value: Any) -> NDArray:
    fault = _fault(value)
    if fault is not None:
        raise InputError(f"{name} {fault}")
    try:
        array = _of_torch(value) if hasattr(value, "detach") else np.asarray(value)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{name} cannot be read as an array: {reason:.200}") from error
    if not (jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "iub"):
        kind = type(value).__name__ if array.dtype == object else array.dtype
        raise InputError(f"{name} is of type {kind}; weights are real numbers")
    return array


def _fault(value: Any) -> str | None:
    """What a tensor of torch is that has no array of its numbers."""
    if isinstance(value, Mapping):
        return "is a mapping of its own; give the state dict that it holds"
    if getattr(value, "is_meta", False):
        return "is on torch's meta device, where tensors hold no numbers; load them first"
    if getattr(value, "is_quantized", False):
        return "is quantized; give its dequantize()"
    layout = str(getattr(value, "layout", ""))
    if layout.startswith("torch.") and layout != "torch.strided":
        return f"is of the layout {layout}; give its to_dense()"
    return None


def _of_torch(tensor: Any) -> NDArray:
    tensor = tensor.detach().cpu()
    if "bfloat16" in str(tensor.dtype) or "float8" in str(tensor.dtype):
        tensor = tensor.float()  # NumPy has no such types, and float32 holds all of their numbers
    return tensor.numpy()

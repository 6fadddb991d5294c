"""Weights to and from other people's names: state dicts as `dict[str, np.ndarray]`.

A layout is a list of `Entry`: which part of which parameter carries which name, and whether it is
transposed. The same list is read in both directions, so that one is the inverse of the other, and
together the entries use every number of every parameter once.
"""

from jax_attn.interop.from_state_dict import model_of
from jax_attn.interop.layouts import LAYOUTS, Layout
from jax_attn.interop.names import layout_of
from jax_attn.interop.safetensors_file import load_safetensors, save_safetensors
from jax_attn.interop.state_dict import load_state_dict, to_state_dict

__all__ = [
    "LAYOUTS",
    "Layout",
    "layout_of",
    "load_safetensors",
    "load_state_dict",
    "model_of",
    "save_safetensors",
    "to_state_dict",
]

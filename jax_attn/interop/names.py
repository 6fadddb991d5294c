"""The names of a state dict as a layout has them, and which layout's they are."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jax_attn.errors import InputError
from jax_attn.interop.layouts import Layout

FUSED = ".attn.c_attn.weight"
BODY = ("wte.", "wpe.", "h.", "ln_f.")  # what GPT-2 without its head leaves the prefix from


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Each given name without what wrappers add, by the plain name.

    torch.compile adds `_orig_mod.`, data parallelism `module.`, both in any order; a body of GPT-2
    alone leaves out `transformer.`. InputError where two names become one.
    """
    stripped = {name: _stripped(name) for name in names}
    is_body = "wte.weight" in stripped.values()
    plain: dict[str, str] = {}
    for given, name in stripped.items():
        whole = f"transformer.{name}" if is_body and name.startswith(BODY) else name
        if whole in plain:
            raise InputError(f"{plain[whole]} and {given} are two names of {whole}; leave one out")
        plain[whole] = given
    return plain


def _stripped(name: str) -> str:
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while parts[:1] == ["module"]:
        del parts[0]
    return ".".join(parts)


def layout_of(state_dict: Mapping[str, Any]) -> Layout:
    """The layout that the names, and the shape of a query-key-value matrix, are of.

    Values are arrays, tensors or anything else with a `shape`. InputError when there is none.
    """
    named = {name: state_dict[given] for name, given in plain_names(state_dict).items()}
    found = look_of(named)
    if found is None:
        for name, value in named.items():
            if name.endswith(FUSED):
                raise InputError(
                    f"{name} has shape {_shape(value)}: query, key and value together are three "
                    "times as many as channels, [C 3C] in layout gpt2, [3C C] in nanogpt"
                )
        some = ", ".join(list(state_dict)[:3]) or "none"
        raise InputError(
            "no weights of a layout that is known: lecture has token_embedding_table.weight, "
            "nanogpt and gpt2 have transformer.wte.weight and transformer.h.0.attn.c_attn.weight; "
            f"the names here are {some}{', …' if len(state_dict) > 3 else ''}"
        )
    return found


def look_of(state_dict: Mapping[str, Any]) -> Layout | None:
    """`layout_of` plain names; None when there is none."""
    if "token_embedding_table.weight" in state_dict:
        return "lecture"
    for name, value in state_dict.items():
        if name.endswith(FUSED):
            match _shape(value):
                case (rows, columns) if columns == 3 * rows:
                    return "gpt2"
                case (rows, columns) if rows == 3 * columns:
                    return "nanogpt"
    return None


def _shape(value: Any) -> tuple[int, ...]:
    shape = getattr(value, "shape", None)
    return np.shape(value) if shape is None else tuple(shape)

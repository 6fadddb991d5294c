"""Tensors that a torch module holds under several names."""

from typing import Any

import torch


def aliases(reference: torch.nn.Module) -> dict[str, str]:
    """Names of tied tensors, which torch lists once more, and the name that comes first."""
    seen: dict[Any, str] = {}
    found = {}
    for name, value in reference.state_dict(keep_vars=True).items():
        first = seen.setdefault(id(value), name)
        if first != name:
            found[name] = first
    return found

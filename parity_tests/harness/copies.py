"""Copies of models, so that no pass sees what another one has left behind."""

import copy
from typing import Any, TypeVar

import torch

from parity_tests.harness.kinds import kind_of
from parity_tests.harness.variables import take_apart

ModelT = TypeVar("ModelT")


def copy_of(model: ModelT) -> ModelT:
    """A model of its own, with the same arrays and whatever else the model remembers."""
    if kind_of(model) == "torch":
        return _copy_of_torch(model, share_parameters=False)
    values, rebuild = take_apart(model)
    return rebuild(values)


def snapshot(layer: torch.nn.Module) -> torch.nn.Module:
    """A copy that shares the parameters, which no call changes, and nothing else."""
    return _copy_of_torch(layer, share_parameters=True)


def _copy_of_torch(model: Any, *, share_parameters: bool) -> Any:
    memo: dict[int, Any] = {}
    for module in model.modules():
        if share_parameters:
            memo |= {id(p): p for p in module._parameters.values() if p is not None}
        # Of tensors that were computed, as the weight of the old weight_norm is, torch refuses a
        # copy, which they do not need: the next call computes them again.
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)

"""Gradients of a scalar with respect to every parameter and input, under the same names."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from torch import nn

import jax_attn

Scalar = Callable[[Any, Any], Any]  # takes a module and the arrays, gives the number to derive

_HEAD = re.compile(r"(^|\.)heads\.\d+\.(?:query|key|value)(\.\w+)$")


def reference_gradients(module: nn.Module, arrays: Any, scalar: Scalar, inputs: tuple[str, ...]):
    """By the parameters' names, and the inputs' own."""
    given = dict(arrays) | {name: arrays[name].requires_grad_() for name in inputs}
    scalar(module, given).backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    return heads_joined(gradients, torch.stack) | {name: given[name].grad for name in inputs}


def port_gradients(module: nnx.Module, arrays: Any, scalar: Scalar, inputs: tuple[str, ...]):
    """The same names, through the bridge."""
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def of(params, given):
        return scalar(nnx.merge(graphdef, params, rest), dict(arrays) | given)

    given = {name: arrays[name] for name in inputs}
    of_params, of_inputs = jax.grad(of, argnums=(0, 1))(params, given)
    named = by_reference_name(nnx.merge(graphdef, of_params, rest))
    return heads_joined(named, np.stack) | of_inputs


def by_reference_name(model: nnx.Module) -> dict[str, Any]:
    """A model's parameters, or gradients in their place, as `named_parameters` gives them.

    A tied matrix counts once, causal masks not at all.
    """
    named = jax_attn.to_state_dict(model)
    tied = isinstance(model, jax_attn.GPT) and model.config.tie_embeddings
    return {
        name: value
        for name, value in named.items()
        if not name.endswith("tril") and not (tied and name == "lm_head.weight")
    }


def heads_joined(named: Mapping[str, Any], stack: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """The query, key and value tensors of all heads of a layer as one, as the port stores them.

    Two reasons. A key's bias moves every score of a row alike, softmax forgets it, and its gradient
    is rounding noise around zero; beside the others' it is measured by their size. And the rounding
    error of one head often comes from one peaked row: the ratio of two such errors is luck, that
    over all heads is not (largest of 2,240: 0.6 of the budget, against 2.9 head by head).
    """
    joined: dict[str, list[tuple[str, Any]]] = {}
    for name, value in named.items():
        joined.setdefault(_HEAD.sub(r"\1qkv\2", name), []).append((name, value))
    return {
        name: stack([value for _, value in sorted(parts, key=lambda part: part[0])])
        if len(parts) > 1
        else parts[0][1]
        for name, parts in joined.items()
    }


def clear_of_kinks(
    module: nn.Module, run: Callable[[nn.Module], Any], margin: float = 1e-4
) -> bool:
    """Whether no ReLU of the float64 reference sees a number within `margin` of 0.

    Nearer than that, float32 may take the other branch, and then even torch's own gradient is that
    of another piece of the function. Drawing again until this holds puts the oracle and both
    float32 runs on one branch.
    """
    nearest = [float("inf")]

    def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nearest.append(float(inputs[0].detach().abs().min()))

    hooks = [m.register_forward_pre_hook(note) for m in module.modules() if isinstance(m, nn.ReLU)]
    with torch.no_grad():
        run(module)
    for hook in hooks:
        hook.remove()
    return min(nearest) > margin

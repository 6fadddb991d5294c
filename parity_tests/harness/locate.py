"""The first layer in which a port departs from its reference.

Two passes, each forward and backward. *Cascaded*: both models run, and the taps are compared in
order of execution; the first that differs is near the fault. *Isolated*: each layer of the port
gets the input, and on the way back the output cotangent, that the reference had there; a layer that
differs now is itself at fault, or something inside it is.
"""

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import jax
import torch

from parity_tests.harness.bridge import Bridge
from parity_tests.harness.budgets import SEMANTIC, Budget
from parity_tests.harness.draws import random_draws
from parity_tests.harness.dropouts import refuse_dropout
from parity_tests.harness.islands import float32_islands
from parity_tests.harness.location import Location
from parity_tests.harness.pairing import Which
from parity_tests.harness.passes import Passes
from parity_tests.harness.progress import Progress
from parity_tests.harness.quick_programs import quickly_compiled
from parity_tests.harness.runs import Names, Runs, in_double
from parity_tests.harness.unseen import unseen


def locate(
    ref_model: torch.nn.Module,
    port_model: Any,
    inputs: Any,
    names: Names | Literal["auto"],
    budget: Budget = SEMANTIC,
    *,
    port_inputs: Any = None,
    output: Which = None,
    bridge: Bridge | None = None,
    backward_budget: Budget | None = None,
    seed: int = 0,
) -> Location:
    """Compares layer by layer; both models must already hold the same weights, and drop nothing.

    `port_model`: an NNX, bound Linen or Equinox module, or a function (`functools.partial` binds
    its parameters). `inputs`: NumPy array, tuple of positional or dict of keyword arguments, in the
    reference's layout; `port_inputs` the same for the port where it takes others. `names`: the
    reference's layer -> the port's, with patterns ("blocks.{i}.mlp" -> "blocks.{i}.ffwd"), or ->
    `Twin`; the models themselves ("" -> "") are always compared. "auto" pairs layers by name, order
    and size, and `Location.pairing` is what came of it, to be pasted and mended. `output` chooses
    what is compared of both models' results, by key, attribute, position or a function. `bridge`
    maps weight gradients to the reference's names; without one only the gradients of inputs are
    compared; with rules for buffers, these are compared after the call too.

    With the semantic budget both models must be float64; inputs become so, and x64 is turned on.
    With any other they are run as they are, x64 off, against a float64 copy of the reference. The
    output's cotangent is random, from `seed`. Every pass runs on copies; neither model is changed.

    A layer is guilty only where like was compared with like. What could not be compared is in
    `Location.not_compared`, with the reason.

    ValueError for a name that matches no layer, for active dropout, and where the two models'
    results have nothing in common. TypeError for what is no model.
    """
    in_float64 = budget.factor == 0
    refuse_dropout(ref_model, port_model)
    with (
        jax.enable_x64(in_float64),
        jax.default_matmul_precision("highest"),
        quickly_compiled() if in_float64 else nullcontext(),  # float32 as users run it
        warnings.catch_warnings(),
        Progress("locate") as progress,
    ):
        # A float32 statistic in a float64 model is said in the report.
        warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
        if in_float64:  # values stay; that of a narrower input its gradient would have the dtype
            inputs, port_inputs = in_double(inputs), in_double(port_inputs)
        runs = Runs(
            ref_model,
            port_model,
            inputs,
            port_inputs,
            names,
            output,
            bridge,
            in_float64,
            seed,
            progress,
        )
        passes = Passes(runs)
        back = backward_budget or budget
        checks = (
            *passes.inputs(budget),
            *passes.cascaded_forward(budget),
            *passes.isolated_forward(budget),
            *passes.cascaded_backward(back),
            *passes.isolated_backward(back),
        )
        state = runs.state(budget)
        hidden = unseen(ref_model, runs.inputs, runs.ref_calls)
        found = Location(checks, runs.not_compared, state, runs.pairing, hidden)
        if found.ok:
            return found
        progress.now("where the port rounds, or draws random numbers")
        return replace(
            found,
            islands=_islands(port_model, runs.port_inputs) if in_float64 else (),
            draws=_draws(port_model, runs.port_inputs),
        )


def _islands(port: Any, inputs: Any) -> tuple[str, ...]:
    """Where the port rounds to float32; nothing where it cannot be traced."""
    try:
        if isinstance(inputs, Mapping):
            return float32_islands(port, **inputs)
        return float32_islands(port, *(inputs if isinstance(inputs, tuple) else (inputs,)))
    except Exception:  # a model that looks at its values
        return ()


def _draws(port: Any, inputs: Any) -> tuple[str, ...]:
    """Where the port draws random numbers; nothing where it cannot be traced."""
    try:
        return random_draws(port, inputs)
    except Exception:  # a model that looks at its values
        return ()

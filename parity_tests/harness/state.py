"""What calls leave behind in a model: running statistics, counters, caches, call by call."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import torch

from parity_tests.harness.bridge import Bridge
from parity_tests.harness.calls import run
from parity_tests.harness.copies import copy_of
from parity_tests.harness.dropouts import (
    drawn_by,
    refuse_drawn,
    refuse_dropout,
    refuse_dropping,
)
from parity_tests.harness.kinds import kind_of
from parity_tests.harness.linen_errors import in_one_sentence
from parity_tests.harness.modes import noted_modes
from parity_tests.harness.state_report import StateReport, Values, state_report
from parity_tests.harness.tensors import as_torch, to_numpy
from parity_tests.harness.trees import arrays, map_arrays
from parity_tests.harness.variables import parameters, variables

_FLAX_NAMES = {"running_mean": "mean", "running_var": "var"}


def compare_state(
    ref: torch.nn.Module,
    port: Any,
    inputs: Any,
    steps: int = 3,
    *,
    bridge: Bridge | None = None,
    port_inputs: Any = None,
    output: Callable[[Any], Any] = lambda result: result,
) -> StateReport:
    """`steps` calls of copies of both models, as they train: outputs and buffers after each.

    `ref` is float64 and in training mode, but for layers that are to stay frozen; the port, an NNX
    or bound Linen module, has its own modes. Both hold the same weights. `inputs`: an array, a
    tuple, or a dict of keywords; `port_inputs` where the port's differ; `output` makes the
    reference's form of the port's result.

    Buffers are paired by the bridge, which has rules for them, or without one by name
    (`running_mean` is Flax's `mean`); with it weights are compared too, before the first call.
    A buffer of lower precision than float64 is said, and its value held against float32's rounding.

    ValueError for a reference that is float32 or in eval mode, for layers that drop at random, and
    where no buffer is compared; TypeError for ports that keep no state.
    """
    _check_reference(ref)
    if kind_of(port) not in ("nnx", "linen"):
        raise TypeError(
            f"{type(port).__name__} keeps no state that a call could change: compare what it "
            "returns, the new state included, with `compare`"
        )
    refuse_dropout(ref, port)
    ref = copy_of(ref)
    port_inputs = inputs if port_inputs is None else port_inputs
    with jax.enable_x64(True), jax.default_matmul_precision("highest"), warnings.catch_warnings():
        # A float32 statistic in a float64 model is said in the report.
        warnings.simplefilter("ignore", FutureWarning)
        before, port = port, _mutable_copy(port)
        pairing = _Pairing(ref, port, bridge)
        states = [pairing.both(ref, port)]
        outputs = []
        with (
            noted_modes(ref) as ref_modes,
            noted_modes(port) as port_modes,
            in_one_sentence(port),
        ):
            for _ in range(steps):
                of_ref = run(ref, map_arrays(as_torch, inputs))
                of_port = output(run(port, map_arrays(_jax, port_inputs)))
                outputs.append((_numbered(of_ref), _numbered(of_port)))
                states.append(pairing.both(ref, port))
    # Of NNX, a Dropout that is called with deterministic=True draws nothing, whatever it says.
    if drawn_by(before, port):
        refuse_dropping(port_modes)
        refuse_drawn(before, port, "make its rates 0")
    elif kind_of(port) == "linen":
        refuse_dropping(port_modes)
    port_modes = {
        n: replace(m, trains=False, words="drops nothing") if m.drops else m
        for n, m in port_modes.items()
    }
    return state_report(
        pairing.names,
        pairing.weights,
        pairing.not_compared,
        states,
        outputs,
        (ref_modes, port_modes),
    )


def _check_reference(ref: torch.nn.Module) -> None:
    if not ref.training:
        raise ValueError("the reference is in eval mode: call ref.train() first, and port.train()")
    narrow = [n for n, v in ref.state_dict().items() if v.is_floating_point() and v.itemsize < 8]
    if narrow:
        raise ValueError(f"{narrow[0]} of the reference is not float64: call ref.double() first")


class _Pairing:
    """Which variable of the port is which buffer of the reference."""

    def __init__(self, ref: torch.nn.Module, port: Any, bridge: Bridge | None) -> None:
        self.bridge = bridge
        self.buffers = [name for name, _ in ref.named_buffers()]
        own = variables(port)
        self.twins = {} if bridge else _by_name(self.buffers, own.keys() - parameters(port))
        here, there = self.both(ref, port)
        self.names = [name for name in self.buffers if name in here and name in there]
        self.weights = [name for name, _ in ref.named_parameters() if name in there]
        why = "the bridge has no rule for it" if bridge else "the port has nothing of that name"
        self.not_compared = [f"{n} ({why})" for n in self.buffers if n not in self.names]
        if bridge is None:
            rest = own.keys() - parameters(port) - set(self.twins.values())
            self.not_compared += [f"{n} of the port (no buffer's twin)" for n in sorted(rest)]
            self.not_compared.append("the weights (no bridge)")
        if not self.names:
            raise ValueError(f"no buffer is compared: {'; '.join(self.not_compared)}")

    def both(self, ref: torch.nn.Module, port: Any) -> tuple[Values, Values]:
        """By the reference's names."""
        of_ref = {name: to_numpy(value) for name, value in ref.state_dict().items()}
        of_ref |= {name: to_numpy(value) for name, value in ref.named_buffers()}
        if self.bridge is not None:
            return of_ref, dict(self.bridge.to_reference(port))
        own = variables(port)
        return of_ref, {name: to_numpy(own[twin]) for name, twin in self.twins.items()}


def _by_name(buffers: list[str], candidates: Any) -> dict[str, str]:
    twins = {}
    for name in buffers:
        path, _, last = name.rpartition(".")
        for twin in (name, f"{path}.{_FLAX_NAMES.get(last, last)}".lstrip(".")):
            if twin in candidates:
                twins[name] = twin
    return twins


def _mutable_copy(port: Any) -> Any:
    """A copy whose calls change it, as an NNX module's do."""
    port = copy_of(port)
    if kind_of(port) == "nnx":
        return port
    module, tree = port.unbind()
    random = {name: stream.as_jax_rng() for name, stream in port.scope.rngs.items()}
    return module.bind(tree, rngs=random, mutable=[c for c in tree if c != "params"])


def _jax(array: Any) -> jax.Array:
    return jnp.asarray(to_numpy(array))


def _numbered(result: Any) -> Values:
    """{"output": first, "output 2": second, …}"""
    found = enumerate(arrays(result), start=1)
    return {"output" if i == 1 else f"output {i}": to_numpy(array) for i, array in found}

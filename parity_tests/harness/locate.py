"""The first layer in which a port departs from its reference.

Two passes, each forward and backward. *Cascaded*: both models run, and the taps are compared in
order of execution; the first that differs is near the fault. *Isolated*: each layer of the port
gets the input, and on the way back the output cotangent, that the reference had there; a layer that
differs now is itself at fault, or something inside it is.
"""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from functools import cached_property
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from numpy.typing import NDArray

from parity_tests.harness import replay
from parity_tests.harness.bridge import Bridge
from parity_tests.harness.budgets import SEMANTIC, Budget
from parity_tests.harness.compare import compare, rms
from parity_tests.harness.location import Check, Direction, Location, Mode
from parity_tests.harness.pairing import Pair, Twin, pair_calls
from parity_tests.harness.report import failed
from parity_tests.harness.taps import submodules
from parity_tests.harness.trace import numbered, record
from parity_tests.harness.trees import floats, is_float, map_arrays

Arrays = dict[str, NDArray[Any]]


def locate(
    ref_model: torch.nn.Module,
    port_model: nnx.Module,
    inputs: Any,
    names: Mapping[str, str | Twin],
    budget: Budget = SEMANTIC,
    *,
    bridge: Bridge | None = None,
    backward_budget: Budget | None = None,
    seed: int = 0,
) -> Location:
    """Compares layer by layer; both models must already hold the same weights, and drop nothing.

    `inputs`: NumPy array, or tuple of them, in the reference's layout. `names`: the reference's
    layer -> the port's, with patterns ("blocks.{i}.mlp" -> "blocks.{i}.ffwd"); layers without a
    twin are passed over, the models themselves ("" -> "") always compared. `bridge` maps weight
    gradients to the reference's names; without one only the gradients of inputs are compared.

    With the semantic budget both models must be float64 and x64 is turned on. With any other they
    are run as they are, x64 off, against a float64 copy of the reference. The output's cotangent is
    random, from `seed`. Neither model is changed. A layer that takes another number of arrays than
    its twin is compared in the cascaded passes only.

    ValueError for a name that matches no call, and for a layer called more often on one side.
    """
    in_float64 = budget.factor == 0
    with jax.enable_x64(in_float64), jax.default_matmul_precision("highest"):
        search = _Search(ref_model, port_model, inputs, names, bridge, in_float64, seed)
        back = backward_budget or budget
        return Location(
            (
                *search.cascaded_forward(budget),
                *search.isolated_forward(budget),
                *search.cascaded_backward(back),
                *search.isolated_backward(back),
            )
        )


class _Search:
    """The recorded runs of both models, and the reference's float64 copy if one is needed."""

    def __init__(
        self,
        ref_model: torch.nn.Module,
        port_model: nnx.Module,
        inputs: Any,
        names: Mapping[str, str | Twin],
        bridge: Bridge | None,
        in_float64: bool,
        seed: int,
    ) -> None:
        twins = {name: Twin(t) if isinstance(t, str) else t for name, t in names.items()}
        root = twins.setdefault("", Twin(""))
        self.bridge = bridge
        self.ref, self.port = deepcopy(ref_model), nnx.clone(port_model)
        self.oracle = None if in_float64 else deepcopy(ref_model).double()
        self.inputs = inputs
        self.port_inputs = map_arrays(root.to_port, inputs)
        ref_calls = record(self.ref, inputs)
        self.port_calls = record(self.port, self.port_inputs)
        self.pairs = pair_calls(ref_calls, self.port_calls, twins)
        self.port_layers = submodules(self.port)
        random = np.random.default_rng(seed)
        self.cotangents = [
            random.normal(size=y.shape).astype(y.dtype) for y in floats(ref_calls[-1].output)
        ]
        self.port_cotangents = [root.to_port(c) for c in self.cotangents]

    @cached_property
    def ref_cotangents(self) -> list[list[NDArray[Any]]]:
        """Of the floating-point outputs of every call of the reference."""
        return replay.torch_cotangents(self.ref, self.inputs, self.cotangents)

    def cascaded_forward(self, budget: Budget) -> Iterator[Check]:
        exact = None
        if self.oracle is not None:
            exact = [call.outputs for call in record(self.oracle, _float64(self.inputs))]
        for pair in self.pairs:
            sides = _outputs(
                pair,
                pair.call.outputs,
                pair.port_call.outputs,
                None if exact is None else exact[pair.position],
            )
            yield _check(pair, "forward", "cascaded", sides, budget)

    def isolated_forward(self, budget: Budget) -> Iterator[Check]:
        for pair in self.pairs:
            if not pair.replayable:
                continue
            try:
                layer = self.port_layers[pair.twin.port]
                of_port = replay.nnx_outputs(layer, *pair.port_arguments)
            except Exception as error:  # whatever it is, the report names the layer
                yield _broken(pair, "forward", budget, error)
                continue
            exact = None
            if self.oracle is not None:
                oracle = self.oracle.get_submodule(pair.call.name)
                exact = replay.torch_outputs(oracle, *_float64(pair.arguments))
            sides = _outputs(pair, pair.call.outputs, of_port, exact)
            yield _check(pair, "forward", "isolated", sides, budget)

    def cascaded_backward(self, budget: Budget) -> Iterator[Check]:
        of_port = replay.nnx_cotangents(
            self.port,
            self.port_inputs,
            self.port_cotangents,
            [floats(call.output) for call in self.port_calls],
        )
        exact = None
        if self.oracle is not None:
            exact = replay.torch_cotangents(
                self.oracle, _float64(self.inputs), _float64(self.cotangents)
            )
        of_ref = self.ref_cotangents
        # One that is zero in exact arithmetic is rounding noise beside the others.
        scale = max(rms(c) for pair in self.pairs for c in of_ref[pair.position])
        for pair in reversed(self.pairs):
            i, j = pair.position, pair.port_position
            if of_ref[i]:  # otherwise no output has a gradient
                true = None if exact is None else exact[i]
                sides = _outputs(pair, of_ref[i], of_port[j], true)
                yield _check(pair, "backward", "cascaded", sides, budget, scale)

    def isolated_backward(self, budget: Budget) -> Iterator[Check]:
        for pair in reversed(self.pairs):
            if not pair.replayable:
                continue
            cotangents = self.ref_cotangents[pair.position]
            of_ref, exact = self._gradients(self.ref, pair, cotangents), None
            if self.oracle is not None:
                exact = self._gradients(self.oracle, pair, cotangents, _float64)
            try:
                of_port = self._port_gradients(pair, cotangents)
            except Exception as error:
                yield _broken(pair, "backward", budget, error)
                continue
            sides = of_ref, of_port, exact
            if pair.call.name:
                # The two layers may own different weights: a tied one is somebody else's. The
                # check of the whole model compares them all.
                sides = _in_common(*sides)
            if sides[0]:
                scale = max(rms(g) for g in sides[0].values())
                yield _check(pair, "backward", "isolated", sides, budget, scale)

    def _gradients(
        self, model: torch.nn.Module, pair: Pair, cotangents: Any, cast: Any = lambda tree: tree
    ) -> Arrays:
        """Of one layer of the reference or its oracle, by name."""
        layer = model.get_submodule(pair.call.name)
        args, kwargs = cast(pair.arguments)
        gradients = replay.torch_gradients(layer, args, kwargs, cast(cotangents))
        named = numbered(f"{pair.label}:input", gradients.inputs)
        return named | _under(pair.call.name, gradients.weights) if self.bridge else named

    def _port_gradients(self, pair: Pair, cotangents: Iterable[NDArray[Any]]) -> Arrays:
        """Of the port's layer, by the reference's names and in its layout."""
        cotangents = [pair.twin.to_port(c) for c in cotangents]
        layer = self.port_layers[pair.twin.port]
        gradients = replay.nnx_gradients(layer, *pair.port_arguments, cotangents)
        named = numbered(f"{pair.label}:input", map(pair.twin.to_reference, gradients.inputs))
        if self.bridge is None:
            return named
        return named | self.bridge.map_gradients(_under(pair.twin.port, gradients.weights))


Sides = tuple[Arrays, Arrays, Arrays | None]


def _outputs(
    pair: Pair,
    of_ref: Iterable[NDArray[Any]],
    of_port: Iterable[NDArray[Any]],
    exact: Iterable[NDArray[Any]] | None,
) -> Sides:
    return (
        numbered(pair.label, of_ref),
        numbered(pair.label, map(pair.twin.to_reference, of_port)),
        None if exact is None else numbered(pair.label, exact),
    )


def _in_common(ref: Arrays, port: Arrays, oracle: Arrays | None) -> Sides:
    names = [name for name in ref if name in port]
    of_ref, of_port = ({name: side[name] for name in names} for side in (ref, port))
    return of_ref, of_port, None if oracle is None else {name: oracle[name] for name in names}


def _check(
    pair: Pair, direction: Direction, mode: Mode, sides: Sides, budget: Budget, scale: float = 0.0
) -> Check:
    report = compare(*sides, budget=budget, scale=scale)
    return Check(pair.call.name, pair.label, pair.twin.port, direction, mode, report)


def _broken(pair: Pair, direction: Direction, budget: Budget, error: Exception) -> Check:
    report = failed(pair.label, budget, f"the port's layer raises {type(error).__name__}: {error}")
    return Check(pair.call.name, pair.label, pair.twin.port, direction, "isolated", report)


def _under(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}" if prefix else name: value for name, value in named.items()}


def _float64(tree: Any) -> Any:
    return map_arrays(lambda x: x.astype(np.float64) if is_float(x) else x, tree)

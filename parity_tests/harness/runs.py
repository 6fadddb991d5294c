"""What `locate` knows of both models: their recorded runs, and the way back through the whole."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from parity_tests.harness.auto_names import paired_names
from parity_tests.harness.bridge import Bridge, BridgeError
from parity_tests.harness.budgets import Budget
from parity_tests.harness.calls import Call, Key
from parity_tests.harness.compare import compare, rms
from parity_tests.harness.copies import copy_of
from parity_tests.harness.dropouts import refuse_drawn, refuse_dropping, refuse_other_numbers
from parity_tests.harness.jax_replay import Backward, port_backward
from parity_tests.harness.kinds import kind_of
from parity_tests.harness.likeness import Likeness
from parity_tests.harness.modes import noted_modes
from parity_tests.harness.on_torch import torch_cotangents
from parity_tests.harness.pairing import Twin, Which, listed, pair_calls
from parity_tests.harness.progress import Progress
from parity_tests.harness.record import Record, record
from parity_tests.harness.report import Report
from parity_tests.harness.taps import layers
from parity_tests.harness.tensors import to_numpy
from parity_tests.harness.trees import is_float, map_arrays
from parity_tests.harness.variables import variables

Names = Mapping[str, str | Twin]


class Runs:
    """Both models' runs, and that of the reference's float64 copy if one is needed."""

    def __init__(
        self,
        ref_model: torch.nn.Module,
        port_model: Any,
        inputs: Any,
        port_inputs: Any,
        names: Names | Literal["auto"],
        output: Which,
        bridge: Bridge | None,
        in_float64: bool,
        seed: int,
        progress: Progress,
    ) -> None:
        self.bridge, self.inputs = bridge, inputs
        self.ref, self.port = ref_model, port_model
        self.progress = progress
        self.ref_parameters = {name for name, _ in ref_model.named_parameters()}
        if bridge is not None and self.ref_parameters and not variables(port_model):
            raise ValueError(
                "the port holds no weights for the bridge: give a function with its parameters "
                "bound, functools.partial(function, parameters)"
            )
        progress.now("the reference runs")
        ref = record(self.ref, inputs)
        refuse_other_numbers(self.ref, ref, record(self.ref, inputs))
        self.ref_calls = ref.calls
        self.pairing = ""
        recorded = None
        if names == "auto":
            progress.now("the port runs")
            recorded = self._recorded_port(inputs if port_inputs is None else port_inputs)
            progress.now("layers are paired")
            names, self.pairing = paired_names(ref, recorded, self.may_pair)
        twins = {name: Twin(t) if isinstance(t, str) else t for name, t in names.items()}
        root = twins.setdefault("", Twin(""))
        if root.inputs is not None:
            raise ValueError(
                "the model's own arguments are given by `port_inputs`, not Twin(inputs)"
            )
        self.port_inputs = map_arrays(root.to_port, inputs) if port_inputs is None else port_inputs
        if recorded is None or (port_inputs is None and self.port_inputs is not inputs):
            progress.now("the port runs")
            recorded = self._recorded_port(self.port_inputs)
        port = recorded
        self.ref_after, self.port_after, self.oracle_after = ref.model, port.model, None
        self.oracle = None
        self.exact: dict[Key, Call] = {}
        if not in_float64:
            self.oracle = copy_of(ref_model).double()
            exact = record(self.oracle, in_double(inputs))
            self.oracle_after = exact.model
            self.exact = {(call.name, call.count): call for call in exact.calls}
        pairing = pair_calls(ref, port, twins, set(layers(port.model)) | {""})
        self._sentences = list(pairing.not_paired)
        self._sentences += bridge.parted(ref_model) if bridge is not None else ()
        self._not_alone: dict[str, list[str]] = {}
        likenesses = [
            Likeness.of(pair, None if pair.call.name else output) for pair in pairing.pairs
        ]
        self._sentences += [sentence for like in likenesses for sentence in like.left_out()]
        self.pairs = [like for like in likenesses if like.results.matching.matches]
        if not self.pairs or self.pairs[-1].name:
            raise ValueError(
                "nothing to compare: no array of one model's result is like one of the other's; "
                "`output` chooses what is compared of them"
            )
        self.root = self.pairs[-1]
        self.cotangents = self.root.results.random_cotangents(seed)

    def _recorded_port(self, inputs: Any) -> Record:
        with noted_modes(self.port) as modes:
            port = record(self.port, inputs)
        if kind_of(self.port) == "linen":
            refuse_dropping(modes)
        refuse_drawn(self.port, port.model)
        return port

    def may_pair(self, reference: str, port: str) -> bool | None:
        """Whether the rules make two layers hold the same weights; None where they do not say."""
        if self.bridge is None:
            return None
        tensors = _held_by(reference, self.bridge.without_ignored(self.ref.state_dict()))
        if not tensors or not _held_by(port, self.port_shapes):
            return None
        return not self.outside(reference, port)

    def outside(self, reference: str, port: str) -> str:
        """Of two layers, a weight that, by the rules, only one holds; "" if there is none."""
        if self.bridge is None:
            return ""
        return self.bridge.outside(reference, port, self.ref.state_dict(), self.port_shapes)

    @cached_property
    def ref_cotangents(self) -> dict[Key, list[NDArray[Any]]]:
        """Of the real outputs of every call of the reference."""
        return torch_cotangents(self.ref, self.inputs, self.root.results.among_all(self.cotangents))

    @cached_property
    def exact_cotangents(self) -> dict[Key, list[NDArray[Any]]] | None:
        if self.oracle is None:
            return None
        whole = self.root.results.among_all(self.cotangents)
        return torch_cotangents(self.oracle, in_double(self.inputs), in_double(whole))

    @cached_property
    def port_run(self) -> Backward:
        """The port backward as a whole."""
        return port_backward(
            self.port, self.port_inputs, self.root.results.adapted_reals, self.cotangents
        )

    def exact_call(self, like: Likeness) -> Call | None:
        return self.exact.get((like.name, like.pair.call.count))

    def state(self, budget: Budget) -> Report | None:
        """Of the buffers after the call, by the bridge; None where it has no rules for any."""
        if self.bridge is None:
            return None
        try:
            of_port = self.bridge.to_reference(self.port_after)
        except BridgeError:  # of a rule that only takes weights to the port
            return None
        sides: list[dict[str, Any]] = []
        for model in (self.ref_after, self.oracle_after):
            state = {} if model is None else model.state_dict()
            found = {n: to_numpy(v) for n, v in state.items() if n not in self.ref_parameters}
            sides.append({name: value for name, value in found.items() if name in of_port})
        of_ref, exact = sides
        kept: dict[str, Any] = {}
        for name, value in of_ref.items():
            mine = of_port[name]
            if value.dtype == np.float64 and mine.dtype == np.float32:
                # flax keeps statistics in float32; that is said, and is no other value.
                said = f"{name}: the port keeps it in float32"
                if rms(mine - value) <= 1e-6 * rms(value):
                    self.leave_out(f"{said}; to that, it agrees")
                    continue
                self.leave_out(said)
                of_port[name] = mine.astype(np.float64)
            kept[name] = value
        if not kept:
            return None
        of_port = {name: of_port[name] for name in kept}
        return compare(kept, of_port, exact or None, budget=budget)

    @cached_property
    def port_arrays(self) -> dict[str, Any]:
        """By name."""
        return variables(self.port)

    @cached_property
    def port_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the port's arrays, by name."""
        return {name: np.shape(value) for name, value in self.port_arrays.items()}

    def leave_out(self, sentence: str) -> None:
        """Something that was not compared, and why."""
        if sentence not in self._sentences:
            self._sentences.append(sentence)

    def leave_out_alone(self, label: str, reason: str) -> None:
        """A layer that was not compared in isolation, or not all of it."""
        labels = self._not_alone.setdefault(reason, [])
        if label not in labels:
            labels.append(label)

    @property
    def not_compared(self) -> tuple[str, ...]:
        """A sentence of each kind."""
        alone = (f"{listed(labels)} alone: {why}" for why, labels in self._not_alone.items())
        return (*self._sentences, *alone)


def in_double(tree: Any) -> Any:
    """The tree with its real arrays in float64."""
    return map_arrays(lambda x: to_numpy(x).astype(np.float64) if is_float(x) else x, tree)


def _held_by(layer: str, names: Iterable[str]) -> list[str]:
    """Those of what is inside the layer."""
    return [name for name in names if name.startswith(f"{layer}." if layer else "")]

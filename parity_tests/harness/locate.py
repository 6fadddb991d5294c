"""The first layer in which a port departs from its reference.

Two passes, each forward and backward. *Cascaded*: both models run, and the taps are compared in
order of execution; the first that differs is near the fault. *Isolated*: each layer of the port
gets the input, and on the way back the output cotangent, that the reference had there; a layer that
differs now is itself at fault, or something inside it is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
import torch
from numpy.typing import NDArray

from parity_tests.harness.bridge import Bridge, BridgeError
from parity_tests.harness.budgets import SEMANTIC, Budget
from parity_tests.harness.calls import Call, Key, NotReplayableError
from parity_tests.harness.compare import compare, rms
from parity_tests.harness.copies import copy_of
from parity_tests.harness.dropouts import refuse_drawn, refuse_dropout
from parity_tests.harness.jax_replay import Backward, PortLayer, port_backward
from parity_tests.harness.likeness import Likeness, Which
from parity_tests.harness.location import Check, Direction, Location, Mode
from parity_tests.harness.on_torch import torch_cotangents, torch_gradients, torch_outputs
from parity_tests.harness.pairing import Twin, pair_calls
from parity_tests.harness.record import record
from parity_tests.harness.report import failed
from parity_tests.harness.taps import layers
from parity_tests.harness.trace import numbered
from parity_tests.harness.trees import arrays, is_float, map_arrays, with_arrays

Arrays = dict[str, NDArray[Any]]
Sides = tuple[Arrays, Arrays, Arrays | None]  # reference, port, oracle


def locate(
    ref_model: torch.nn.Module,
    port_model: Any,
    inputs: Any,
    names: Mapping[str, str | Twin],
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
    `Twin`; the models themselves ("" -> "") are always compared. `output` chooses what is
    compared of both models' results, by key, attribute, position or a function. `bridge` maps
    weight gradients to the reference's names; without one only the gradients of inputs are
    compared.

    With the semantic budget both models must be float64 and x64 is turned on. With any other they
    are run as they are, x64 off, against a float64 copy of the reference. The output's cotangent is
    random, from `seed`. Every pass runs on copies; neither model is changed.

    A layer is guilty only where like was compared with like. What could not be compared is in
    `Location.not_compared`, with the reason.

    ValueError for a name that matches no layer, for active dropout, and where the two models'
    results have nothing in common. TypeError for what is no model.
    """
    in_float64 = budget.factor == 0
    refuse_dropout(ref_model, port_model)
    with jax.enable_x64(in_float64), jax.default_matmul_precision("highest"):
        search = _Search(
            ref_model, port_model, inputs, port_inputs, names, output, bridge, in_float64, seed
        )
        back = backward_budget or budget
        checks = (
            *search.cascaded_forward(budget),
            *search.isolated_forward(budget),
            *search.cascaded_backward(back),
            *search.isolated_backward(back),
        )
        return Location(checks, tuple(search.not_compared))


class _Search:
    """The recorded runs of both models, and of the reference's float64 copy if one is needed."""

    def __init__(
        self,
        ref_model: torch.nn.Module,
        port_model: Any,
        inputs: Any,
        port_inputs: Any,
        names: Mapping[str, str | Twin],
        output: Which,
        bridge: Bridge | None,
        in_float64: bool,
        seed: int,
    ) -> None:
        twins = {name: Twin(t) if isinstance(t, str) else t for name, t in names.items()}
        root = twins.setdefault("", Twin(""))
        if root.inputs is not None:
            raise ValueError(
                "the model's own arguments are given by `port_inputs`, not Twin(inputs)"
            )
        self.doubts: dict[str, str] = {}
        if port_inputs is None:
            port_inputs = map_arrays(root.to_port, inputs)
        self.bridge, self.inputs, self.port_inputs = bridge, inputs, port_inputs
        self.ref, self.port = ref_model, port_model
        self.ref_parameters = {name for name, _ in ref_model.named_parameters()}
        ref = record(self.ref, inputs)
        port = record(self.port, port_inputs)
        refuse_drawn(port_model, port.model)
        self.oracle = None
        self.exact: dict[Key, Call] = {}
        if not in_float64:
            self.oracle = copy_of(ref_model).double()
            exact = record(self.oracle, _float64(inputs))
            self.exact = {(call.name, call.count): call for call in exact.calls}
        pairing = pair_calls(ref, port, twins, set(layers(port.model)) | {""})
        self.not_compared = list(pairing.not_paired)
        likenesses = [
            Likeness.of(pair, None if pair.call.name else output) for pair in pairing.pairs
        ]
        self.not_compared += [sentence for like in likenesses for sentence in like.left_out()]
        self.pairs = [like for like in likenesses if like.outputs.matches]
        if not self.pairs or self.pairs[-1].name:
            raise ValueError(
                "nothing to compare: no array of one model's result is like one of the other's; "
                "`output` chooses what is compared of them"
            )
        self.root = self.pairs[-1]
        self.cotangents = self.root.random_cotangents(seed)

    # What several passes need.

    @cached_property
    def ref_cotangents(self) -> dict[Key, list[NDArray[Any]]]:
        """Of the real outputs of every call of the reference."""
        return torch_cotangents(self.ref, self.inputs, self.root.among_all(self.cotangents))

    @cached_property
    def exact_cotangents(self) -> dict[Key, list[NDArray[Any]]] | None:
        if self.oracle is None:
            return None
        whole = self.root.among_all(self.cotangents)
        return torch_cotangents(self.oracle, _float64(self.inputs), _float64(whole))

    @cached_property
    def port_run(self) -> Backward:
        """The port backward as a whole."""
        return port_backward(self.port, self.port_inputs, self.root.adapted_reals, self.cotangents)

    def exact_call(self, like: Likeness) -> Call | None:
        return self.exact.get((like.name, like.pair.call.count))

    # Forward

    def cascaded_forward(self, budget: Budget) -> Iterator[Check]:
        for like in self.pairs:
            exact = self.exact_call(like)
            outputs = None if exact is None else exact.outputs
            yield self._outputs(like, "cascaded", like.port_results(), outputs, budget)

    def isolated_forward(self, budget: Budget) -> Iterator[Check]:
        for like in self.pairs:
            call, exact = like.pair.call, self.exact_call(like)
            try:
                # The model alone is what it is as a whole.
                of_port = self._replayed(like) if like.name else like.port_results()
            except NotReplayableError as reason:
                self._not_alone(like, str(reason))
                continue
            except Exception as error:  # whatever it is, the report names the layer
                yield self._broken(like, "forward", budget, error)
                continue
            outputs = None
            if exact is not None:
                outputs = torch_outputs(exact, *_float64((call.args, call.kwargs)))
            yield self._doubted(like, self._outputs(like, "isolated", of_port, outputs, budget))

    def _outputs(
        self,
        like: Likeness,
        mode: Mode,
        of_port: list[NDArray[Any]],
        exact: list[NDArray[Any]] | None,
        budget: Budget,
    ) -> Check:
        sides = (
            numbered(like.label, like.ref_results(like.pair.call.outputs)),
            numbered(like.label, of_port),
            None if exact is None else numbered(like.label, like.ref_results(exact)),
        )
        return _check(like, "forward", mode, sides, budget)

    def _replayed(self, like: Likeness) -> list[NDArray[Any]]:
        """NotReplayableError also where the layer does not even run on its own arguments."""
        try:
            layer = PortLayer(like.pair.port_call)
            return layer.outputs(like.arguments, like.given(), like.adapted)
        except NotReplayableError:
            raise
        except Exception as error:
            if self._gives_the_same_again(like):
                raise
            raise NotReplayableError(_in_words(error)) from error

    # Backward

    def cascaded_backward(self, budget: Budget) -> Iterator[Check]:
        of_ref, exact = self.ref_cotangents, self.exact_cotangents
        # One that is zero in exact arithmetic is rounding noise beside the others.
        scale = max((rms(c) for like in self.pairs for c in of_ref[like.key]), default=0.0)
        for like in reversed(self.pairs):
            mine = like.cotangents_of(of_ref[like.key])
            if not mine:  # no output has a gradient
                continue
            theirs = self.port_run.outputs[like.port_key]
            ref_side, port_side = like.both_cotangents(mine, theirs)
            true = None
            if exact is not None:
                of_oracle = like.cotangents_of(exact[like.key])
                true = numbered(like.label, like.both_cotangents(of_oracle, theirs)[0])
            sides = numbered(like.label, ref_side), numbered(like.label, port_side), true
            yield _check(like, "backward", "cascaded", sides, budget, scale)

    def isolated_backward(self, budget: Budget) -> Iterator[Check]:
        for like in reversed(self.pairs):
            mine = like.cotangents_of(self.ref_cotangents[like.key])
            exact_call, exact = self.exact_call(like), None
            try:
                of_port = self._port_gradients(like, mine)
            except NotReplayableError as reason:
                self._not_alone(like, str(reason))
                continue
            except Exception as error:
                yield self._broken(like, "backward", budget, error)
                continue
            of_ref = self._ref_gradients(like, like.pair.call, mine, lambda tree: tree)
            if exact_call is not None:
                exact = self._ref_gradients(like, exact_call, mine, _float64)
            sides = of_ref, of_port, exact
            if like.name:
                # The two layers may own different weights: a tied one is somebody else's. The
                # check of the whole model compares them all.
                sides = _in_common(*sides)
            if sides[0]:
                scale = max(rms(g) for g in sides[0].values())
                check = _check(like, "backward", "isolated", sides, budget, scale)
                yield self._doubted(like, check)

    def _ref_gradients(
        self, like: Likeness, call: Call, cotangents: list[NDArray[Any]], cast: Any
    ) -> Arrays:
        """Of one layer of the reference or its oracle, by name."""
        args, kwargs = cast((like.pair.call.args, like.pair.call.kwargs))
        gradients = torch_gradients(call, args, kwargs, cast(like.among_all(cotangents)))
        named = numbered(f"{like.label}:input", like.given_gradients(gradients.inputs))
        if self.bridge is None:
            return named
        return named | self.bridge.without_ignored(_under(like.name, gradients.weights))

    def _port_gradients(self, like: Likeness, cotangents: list[NDArray[Any]]) -> Arrays:
        """Of the port's layer, by the reference's names and in its layout."""
        if like.name:
            layer = PortLayer(like.pair.port_call)
            gradients = layer.gradients(
                like.arguments, like.given(), like.adapted_reals, cotangents
            )
            of_inputs = gradients.inputs
        else:
            gradients = self.port_run.whole
            of_inputs = like.own_gradients(gradients.inputs)
        named = numbered(f"{like.label}:input", of_inputs)
        if self.bridge is None:
            return named
        weights = _under(like.pair.twin.port, gradients.weights)
        try:
            of_weights = self.bridge.map_gradients(weights, self.ref)
            # What is a buffer there has no gradient; of Equinox's arrays every real one has.
            return named | {n: g for n, g in of_weights.items() if n in self.ref_parameters}
        except BridgeError as error:
            if not like.name:
                raise
            self._not_alone(like, f"the gradients of its weights: {_first_line(error)}")
            return named

    # What a difference is worth

    def _doubted(self, like: Likeness, check: Check) -> Check:
        """With the reason why a difference of a layer alone is no proof of its guilt, if any."""
        return check if check.ok or not like.name else replace(check, doubt=self._doubt(like))

    def _doubt(self, like: Likeness) -> str:
        if like.label not in self.doubts:
            call = like.pair.call
            if not _same(torch_outputs(call, call.args, call.kwargs), call.outputs):
                doubt = "the reference's layer gives another result when it is run again"
            elif not self._gives_the_same_again(like):
                doubt = "the port's layer gives another result when it is run again"
            else:
                doubt = like.doubt()
            self.doubts[like.label] = doubt
            if doubt:
                self._not_alone(like, doubt)
        return self.doubts[like.label]

    def _gives_the_same_again(self, like: Likeness) -> bool:
        """Of the port's layer, on the arguments that it had."""
        call = like.pair.port_call
        try:
            outputs = PortLayer(call).outputs(
                lambda given: with_arrays((call.args, call.kwargs), given),
                arrays((call.args, call.kwargs)),
                like.adapted,
            )
        except Exception:
            return False
        return _same(outputs, like.port_results())

    def _not_alone(self, like: Likeness, reason: str) -> None:
        sentence = f"{like.label} alone: {reason}"
        if sentence not in self.not_compared:
            self.not_compared.append(sentence)

    def _broken(
        self, like: Likeness, direction: Direction, budget: Budget, error: Exception
    ) -> Check:
        report = failed(like.label, budget, f"the port's layer raises {_in_words(error)}")
        check = Check(like.name, like.label, like.pair.twin.port, direction, "isolated", report)
        return self._doubted(like, check)


def _check(
    like: Likeness,
    direction: Direction,
    mode: Mode,
    sides: Sides,
    budget: Budget,
    scale: float = 0.0,
) -> Check:
    report = compare(*sides, budget=budget, scale=scale)
    return Check(like.name, like.label, like.pair.twin.port, direction, mode, report)


def _in_common(ref: Arrays, port: Arrays, oracle: Arrays | None) -> Sides:
    names = [name for name in ref if name in port]
    of_ref, of_port = ({name: side[name] for name in names} for side in (ref, port))
    return of_ref, of_port, None if oracle is None else {name: oracle[name] for name in names}


def _same(again: list[NDArray[Any]], before: list[NDArray[Any]]) -> bool:
    """But for what another order of summation does, in whatever precision."""
    return len(again) == len(before) and all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-3 * rms(b), equal_nan=True)
        for a, b in zip(again, before, strict=True)
    )


def _under(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}" if prefix else name: value for name, value in named.items()}


def _float64(tree: Any) -> Any:
    return map_arrays(lambda x: x.astype(np.float64) if is_float(x) else x, tree)


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]

"""The four passes of `locate`: each yields a check a layer.

*Cascaded*: of a run of the whole. *Isolated*: of a layer of the port on what the reference's had.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from parity_tests.harness.bridge import BridgeError
from parity_tests.harness.budgets import Budget
from parity_tests.harness.calls import Call, JaxLayer, NotReplayableError
from parity_tests.harness.checks import Check, Direction, Mode
from parity_tests.harness.compare import compare, rms
from parity_tests.harness.doubts import Doubts
from parity_tests.harness.jax_replay import PortLayer
from parity_tests.harness.likeness import Likeness
from parity_tests.harness.on_torch import torch_gradients, torch_outputs
from parity_tests.harness.report import failed
from parity_tests.harness.runs import Runs, in_double
from parity_tests.harness.stacked import in_stack
from parity_tests.harness.stretches import Stretches, StretchGradients
from parity_tests.harness.trace import numbered

STACKED = "the gradients of weights that the port holds stacked are compared of the whole only"
Arrays = dict[str, NDArray[Any]]
Sides = tuple[Arrays, Arrays, Arrays | None]  # reference, port, oracle


class Passes:
    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.doubts = Doubts(runs)
        self.stretches = Stretches(runs)

    def inputs(self, budget: Budget) -> Iterator[Check]:
        """What goes into each layer in a run of the whole, as far as both take it."""
        for like in self.runs.pairs:
            of_ref, of_port = like.arguments.of_reference(), like.arguments.of_port()
            if like.name and of_ref:
                label, exact = f"{like.label}:input", self.runs.exact_call(like)
                of_exact = (
                    None if exact is None else numbered(label, like.arguments.of_reference(exact))
                )
                sides = numbered(label, of_ref), numbered(label, of_port), of_exact
                yield _check(like, "forward", "inputs", sides, budget)

    def cascaded_forward(self, budget: Budget) -> Iterator[Check]:
        for like in self.runs.pairs:
            exact = self.runs.exact_call(like)
            outputs = None if exact is None else exact.outputs
            yield self._outputs(like, "cascaded", like.results.of_port(), outputs, budget)

    def isolated_forward(self, budget: Budget) -> Iterator[Check]:
        for like in self.runs.progress.each("forward, each layer alone", self.runs.pairs):
            call, exact = like.pair.call, self.runs.exact_call(like)
            try:
                # The model alone is what it is as a whole.
                of_port = self._replayed(like) if like.name else like.results.of_port()
            except NotReplayableError as reason:
                self._not_alone(like, str(reason))
                continue
            except Exception as error:  # whatever it is, the report names the layer
                yield self._broken(like, "forward", budget, error)
                continue
            outputs = None
            if like.is_tap:
                outputs = self.stretches.arrived_exactly(like)
            elif exact is not None:
                outputs = torch_outputs(exact, *in_double((call.args, call.kwargs)))
            yield self.doubts.weighed(
                like, self._outputs(like, "isolated", of_port, outputs, budget)
            )

    def _outputs(
        self,
        like: Likeness,
        mode: Mode,
        of_port: list[NDArray[Any]],
        exact: list[NDArray[Any]] | None,
        budget: Budget,
    ) -> Check:
        sides = (
            numbered(like.label, like.results.of_reference(like.pair.call.outputs)),
            numbered(like.label, of_port),
            None if exact is None else numbered(like.label, like.results.of_reference(exact)),
        )
        return _check(like, "forward", mode, sides, budget)

    def _replayed(self, like: Likeness) -> list[NDArray[Any]]:
        """NotReplayableError also where the layer does not even run on its own arguments."""
        if like.is_tap:
            return self.stretches.arrived(like)
        try:
            layer = PortLayer(like.pair.port_call)
            return layer.outputs(like.arguments.made, like.arguments.given(), like.results.adapted)
        except NotReplayableError:
            raise
        except Exception as error:
            if self.doubts.port_repeats(like):
                raise
            raise NotReplayableError(_in_words(error)) from error

    def cascaded_backward(self, budget: Budget) -> Iterator[Check]:
        self.runs.progress.now("backward, the port as a whole")
        try:
            port_run = self.runs.port_run
        except Exception:  # whatever a derivative may raise: `isolated_backward` says it
            return
        of_ref, exact = self.runs.ref_cotangents, self.runs.exact_cotangents
        # One that is zero in exact arithmetic is rounding noise beside the others.
        scale = max((rms(c) for like in self.runs.pairs for c in of_ref[like.key]), default=0.0)
        for like in reversed(self.runs.pairs):
            mine = like.results.cotangents_of(of_ref[like.key])
            if not mine:  # no output has a gradient
                continue
            theirs = port_run.outputs[like.port_key]
            ref_side, port_side = like.results.both_cotangents(mine, theirs)
            true = None
            if exact is not None:
                of_oracle = like.results.cotangents_of(exact[like.key])
                true = numbered(like.label, like.results.both_cotangents(of_oracle, theirs)[0])
            sides = numbered(like.label, ref_side), numbered(like.label, port_side), true
            yield _check(like, "backward", "cascaded", sides, budget, scale)

    def isolated_backward(self, budget: Budget) -> Iterator[Check]:
        backwards = self.runs.pairs[::-1]
        for like in self.runs.progress.each("backward, each layer alone", backwards):
            mine = like.results.cotangents_of(self.runs.ref_cotangents[like.key])
            exact_call, exact = self.runs.exact_call(like), None
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
                exact = self._ref_gradients(like, exact_call, mine, in_double)
            sides = of_ref, of_port, exact
            if like.name:
                # The two layers may own different weights: a tied one is somebody else's. The
                # check of the whole model compares them all.
                sides = _in_common(*sides)
            if sides[0]:
                scale = max(rms(g) for g in sides[0].values())
                check = _check(like, "backward", "isolated", sides, budget, scale)
                yield self.doubts.weighed(like, check)

    def _ref_gradients(
        self, like: Likeness, call: Call, cotangents: list[NDArray[Any]], cast: Any
    ) -> Arrays:
        """Of one layer of the reference or its oracle, by name."""
        if like.is_tap:
            exact = call is not like.pair.call
            stretch = self.stretches.ref_gradients(like, cotangents, exact=exact)
            of_inputs = self.runs.root.arguments.given_gradients(stretch.inputs)
            named, bridge = self._named(like, stretch, of_inputs), self.runs.bridge
            return named if bridge is None else named | bridge.without_ignored(stretch.weights)
        args, kwargs = cast((like.pair.call.args, like.pair.call.kwargs))
        gradients = torch_gradients(call, args, kwargs, cast(like.results.among_all(cotangents)))
        named = numbered(f"{like.label}:input", like.arguments.given_gradients(gradients.inputs))
        if self.runs.bridge is None:
            return named
        return named | self.runs.bridge.without_ignored(_under(like.name, gradients.weights))

    def _port_gradients(self, like: Likeness, cotangents: list[NDArray[Any]]) -> Arrays:
        """Of the port's layer, by the reference's names and in its layout."""
        if like.is_tap:
            stretch = self.stretches.port_gradients(like, cotangents)
            of_inputs = self.runs.root.arguments.own_gradients(stretch.inputs)
            return self._named(like, stretch, of_inputs) | self._of_weights(like, stretch.weights)
        if like.name:
            layer = PortLayer(like.pair.port_call)
            gradients = layer.gradients(
                like.arguments.made, like.arguments.given(), like.results.adapted_reals, cotangents
            )
            of_inputs = like.arguments.with_gradient(gradients.inputs)
        else:
            gradients = self.runs.port_run.whole
            of_inputs = like.arguments.own_gradients(gradients.inputs)
        named = numbered(f"{like.label}:input", of_inputs)
        weights = _under(like.pair.twin.port, gradients.weights)
        return named | self._of_weights(like, weights)

    def _of_weights(self, like: Likeness, weights: Arrays) -> Arrays:
        """Gradients of the port's weights, by the reference's names; none without a bridge."""
        if self.runs.bridge is None:
            return {}
        layer = like.pair.port_call.layer
        if like.name and isinstance(layer, JaxLayer):
            values, count = _under(like.pair.twin.port, layer.values), like.pair.port_call.count
            whole = in_stack(weights, values, self.runs.port_arrays, count)
            if whole is None:
                self._not_alone(like, STACKED)
                return {}
            weights = whole
        try:
            of_weights = self.runs.bridge.map_gradients(weights, self.runs.ref)
        except BridgeError as error:
            if not like.name:
                raise
            self._not_alone(like, f"the gradients of its weights: {_first_line(error)}")
            return {}
        # What is a buffer there has no gradient; of Equinox's arrays every real one has.
        return {n: g for n, g in of_weights.items() if n in self.runs.ref_parameters}

    def _named(
        self, like: Likeness, stretch: StretchGradients, of_inputs: list[NDArray[Any]]
    ) -> Arrays:
        named = {f"{like.label}:{tap}": gradient for tap, gradient in stretch.put_in.items()}
        return named | numbered(f"{like.label}:model's input", of_inputs)

    def _not_alone(self, like: Likeness, reason: str) -> None:
        self.runs.leave_out_alone(like.label, reason)

    def _broken(
        self, like: Likeness, direction: Direction, budget: Budget, error: Exception
    ) -> Check:
        who = "the port's layer" if like.name else "the port"
        report = failed(like.label, budget, f"{who} raises {_in_words(error)}")
        check = Check(like.name, like.label, like.pair.twin.port, direction, "isolated", report)
        return self.doubts.weighed(like, check)


def _check(
    like: Likeness,
    direction: Direction,
    mode: Mode,
    sides: Sides,
    budget: Budget,
    scale: float = 0.0,
) -> Check:
    report = compare(*sides, budget=budget, scale=scale)
    port, is_tap = like.pair.twin.port, like.is_tap
    return Check(like.name, like.label, port, direction, mode, report, is_tap=is_tap)


def _in_common(ref: Arrays, port: Arrays, oracle: Arrays | None) -> Sides:
    names = [name for name in ref if name in port]
    of_ref, of_port = ({name: side[name] for name in names} for side in (ref, port))
    return of_ref, of_port, None if oracle is None else {name: oracle[name] for name in names}


def _under(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}" if prefix else name: value for name, value in named.items()}


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]

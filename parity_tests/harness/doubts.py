"""Whether a difference of a layer alone is proof against it."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parity_tests.harness.calls import JaxLayer
from parity_tests.harness.checks import Check
from parity_tests.harness.compare import rms
from parity_tests.harness.jax_replay import PortLayer
from parity_tests.harness.likeness import Likeness
from parity_tests.harness.on_torch import torch_outputs
from parity_tests.harness.runs import Runs
from parity_tests.harness.trees import arrays, is_float, with_arrays
from parity_tests.harness.variables import parameters


class Doubts:
    """Found once a layer, and only of layers that differ."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._found: dict[str, str] = {}

    def weighed(self, like: Likeness, check: Check) -> Check:
        """With the reason, if any, why its failure proves nothing."""
        if check.ok or not like.name or like.is_tap:
            return check  # the model as a whole, and taps, are run on the same
        if like.label not in self._found:
            doubt = self._found[like.label] = self._doubt(like)
            if doubt:
                self._runs.leave_out_alone(like.label, doubt)
        return replace(check, doubt=self._found[like.label])

    def _doubt(self, like: Likeness) -> str:
        call = like.pair.call
        if not _same(torch_outputs(call, call.args, call.kwargs), call.outputs):
            return "the reference's layer gives another result when it is run again"
        if not self.port_repeats(like):
            return "the port's layer gives another result when it is run again"
        return like.doubt() or self._other_weights(like)

    def _other_weights(self, like: Likeness) -> str:
        if self._runs.bridge is not None:
            return self._runs.outside(like.name, like.pair.twin.port)
        ref, port = like.pair.call.layer, like.pair.port_call.layer
        assert isinstance(ref, torch.nn.Module)
        assert isinstance(port, JaxLayer)
        if port.levels:  # stacked
            return ""
        of_ref = sum(p.numel() for p in ref.parameters())
        # Of Equinox and functions every array is a parameter, of torch a buffer is none.
        buffers = sum(b.numel() for b in ref.buffers() if is_float(b))
        names = parameters(port.rebuild(port.values))
        of_port = sum(np.size(value) for name, value in port.values.items() if name in names)
        if of_port in (of_ref, of_ref + buffers):
            return ""
        return (
            f"it holds {of_port} weights in the port, {of_ref} in the reference; see Bridge for "
            "which is which"
        )

    def port_repeats(self, like: Likeness) -> bool:
        """Whether the port's layer gives the same again, on the arguments that it had."""
        call = like.pair.port_call
        try:
            outputs = PortLayer(call).outputs(
                lambda given: with_arrays((call.args, call.kwargs), given),
                arrays((call.args, call.kwargs)),
                like.results.adapted,
            )
        except Exception:  # whatever a layer may raise
            return False
        return _same(outputs, like.results.of_port())


def _same(again: list[NDArray[Any]], before: list[NDArray[Any]]) -> bool:
    """But for what another order of summation does, in whatever precision."""
    return len(again) == len(before) and all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-3 * rms(b), equal_nan=True)
        for a, b in zip(again, before, strict=True)
    )

"""What `compare_state` found, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from parity_tests.harness.budgets import SEMANTIC, Budget
from parity_tests.harness.compare import compare, rms
from parity_tests.harness.modes import LayerMode

Values = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class StateReport:
    outcome: Literal["same", "state differs", "differs"]
    verdict: str  # one line
    remarks: tuple[str, ...]  # what else is to be said of values, dtypes and modes
    not_compared: tuple[str, ...]  # with the reason
    differences: Mapping[str, tuple[float, ...]]  # relative, of each buffer: at first, and a call
    modes: tuple[Mapping[str, LayerMode], Mapping[str, LayerMode]] = field(repr=False)

    @property
    def ok(self) -> bool:
        return self.outcome == "same"

    def __str__(self) -> str:
        lines = [self.verdict, *(f"  {remark}" for remark in self.remarks)]
        lines += [f"  not compared: {text}" for text in self.not_compared]
        for side, layers in zip(("reference", "port"), self.modes, strict=True):
            words = ", ".join(f"{n or 'model'} {m.words}" for n, m in layers.items())
            lines.append(f"  modes of the {side}: {words or 'no layer has one'}")
        return "\n".join(lines)


def state_report(
    names: Sequence[str],
    weights: Sequence[str],
    not_compared: Sequence[str],
    states: list[tuple[Values, Values]],
    outputs: list[tuple[Values, Values]],
    modes: tuple[dict[str, LayerMode], dict[str, LayerMode]],
) -> StateReport:
    """`states`: of both sides by the reference's names, before the first call and after each."""
    differences, findings, of_dtype, remarks = {}, [], [], []
    for name in names:
        pairs = [(ref[name], port[name]) for ref, port in states]
        series = [_Difference.between(*pair, calls) for calls, pair in enumerate(pairs)]
        differences[name] = tuple(difference.relative for difference in series)
        wrong = [i for i, difference in enumerate(series) if not difference.ok]
        if wrong:
            shown, when = (0, "before the first call") if wrong[0] == 0 else (-1, "")
            when = when or f"after {_calls(len(outputs))}"
            findings.append(f"{name} {series[shown]} {when}")
            remarks += _how_it_moves(name, pairs)
        stored = states[-1][1][name]
        if _is_narrower(stored):
            remark = f"{name} is {stored.dtype} in the port, float64 in the reference"
            of_dtype.append(remark if wrong else f"{remark}, its value right ({series[-1]})")
    for name in modes[0].keys() & modes[1].keys():
        here, there = modes[0][name], modes[1][name]
        if here.trains != there.trains:
            remarks.append(f"{name}: {here.words} in the reference, {there.words} in the port")
    wrong = _first_difference(weights, states[0], outputs)
    if wrong:
        outcome, verdict = "differs", "; ".join([f"differs: {wrong}", *findings])
    elif findings or of_dtype:
        outcome = "state differs"
        verdict = f"same function, state differs: {'; '.join(findings or of_dtype)}"
    else:
        what = "buffer" if len(names) == 1 else "buffers"
        outcome = "same"
        verdict = f"same function, same state: {len(names)} {what}, {_calls(len(outputs))}"
    return StateReport(
        outcome,
        verdict,
        (*remarks, *(of_dtype if findings or wrong else ())),
        tuple(not_compared),
        differences,
        modes,
    )


def _first_difference(
    weights: Sequence[str], before: tuple[Values, Values], outputs: list[tuple[Values, Values]]
) -> str:
    for name in weights:
        difference = _Difference.between(before[0][name], before[1][name], 0)
        if not difference.ok:
            return f"the weight {name} {difference} before the first call"
    for i, (ref, port) in enumerate(outputs):
        if ref.keys() != port.keys():
            return f"{len(ref)} arrays come out of the reference, {len(port)} of the port"
        for name in ref:
            difference = _Difference.between(ref[name], port[name], 0)
            if not difference.ok:
                return f"the {name} {difference} in call {i + 1}"
    return ""


@dataclass(frozen=True)
class _Difference:
    ok: bool
    relative: float  # rms of the difference to rms of the reference; NaN where there is none
    message: str  # why it cannot be measured

    @classmethod
    def between(cls, ref: NDArray[Any], port: NDArray[Any], calls: int) -> "_Difference":
        budget = SEMANTIC
        if _is_narrower(port):  # each call rounds once more
            unit = float(jnp.finfo(port.dtype).eps)
            budget = Budget("stored in less", 0.0, (calls + 1) * unit, "one rounding a call")
            port = port.astype(np.float64)
        (tensor,) = compare(ref, port, budget=budget).tensors
        size = rms(ref[np.isfinite(ref)])
        return cls(
            tensor.ok, tensor.port_error / size if size else tensor.port_error, tensor.message
        )

    def __str__(self) -> str:
        measured = self.relative == self.relative
        return f"by {self.relative:.1e}" if measured else f"differs ({self.message})"


def _how_it_moves(name: str, values: list[tuple[NDArray[Any], NDArray[Any]]]) -> list[str]:
    """The commonest reasons, read off the first call."""
    (ref, port), (ref_next, port_next) = values[:2]
    if ref.shape != port.shape or not np.array_equal(ref, port):
        return []
    step, port_step = ref_next - ref, port_next - port
    if not step.any() or not port_step.any():
        return [f"{name} never changes in the {'port' if step.any() else 'reference'}"]
    factor = float(np.sum(step * port_step) / np.sum(step * step))
    if rms(port_step - factor * step) < 1e-5 * rms(port_step):
        return [f"{name} moves {factor:.3g} times as far in the port's first call: its momentum?"]
    return []


def _is_narrower(array: NDArray[Any]) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating)) and array.dtype.itemsize < 8


def _calls(count: int) -> str:
    return f"{count} call" if count == 1 else f"{count} calls"

"""Is the port the same function (float64), or as accurate as the reference (float32)?

The measure is the rms of the difference to the oracle, over the finite entries; NaNs and
infinities must be at the same places. Integers must be equal.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity_tests.harness.budgets import SEMANTIC, Budget
from parity_tests.harness.report import Report, TensorReport, merge
from parity_tests.harness.rounding import RoundingReport, bit_identical_after_rounding
from parity_tests.harness.tensors import Tensor, flatten

__all__ = [
    "Report",
    "RoundingReport",
    "TensorReport",
    "assert_parity",
    "bit_identical_after_rounding",
    "compare",
    "merge",
    "rms",
]

Scale = float | Mapping[str, float]

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def compare(
    ref: Any,
    port: Any,
    oracle: Any = None,
    *,
    budget: Budget = SEMANTIC,
    scale: Scale = 0.0,
) -> Report:
    """Compares arrays, or trees of them, of torch, jax or NumPy; trees must have the same names.

    Without an oracle the reference is its own, and both sides must be float64. With one, the oracle
    must be float64 and both sides of one precision, float64 or less.

    `scale` is for tensors that are zero in exact arithmetic and rounding noise on both sides (the
    gradient of a key bias, of a bias before a normalisation): the budget's floor then applies to
    the rms of the terms that cancelled, say that of the query bias's gradient, instead of the
    noise's own. One number for all, or one a name pattern: `{"*.key.bias": 0.3}`; a pattern that
    matches nothing is a ValueError. By default a port that is not zero where the oracle is fails.
    """
    refs, ports = flatten(ref), flatten(port)
    oracles = refs if oracle is None else flatten(oracle)
    scales = _scale_of_each(refs, scale)
    tensors = []
    for name in dict.fromkeys([*refs, *ports, *oracles]):
        sides = {"reference": refs, "port": ports, "oracle": oracles}
        problem = _misfit({side: flat.get(name) for side, flat in sides.items()}, oracle is None)
        if problem:
            tensors.append(_failed(name, budget, refs.get(name), ports.get(name), problem))
        else:
            tensors.append(
                _measure(name, refs[name], ports[name], oracles[name], budget, scales[name])
            )
    return Report(tuple(tensors), budget)


def assert_parity(
    ref: Any,
    port: Any,
    oracle: Any = None,
    *,
    budget: Budget = SEMANTIC,
    scale: Scale = 0.0,
) -> Report:
    """`compare`, with an AssertionError that holds the table if anything differs."""
    report = compare(ref, port, oracle, budget=budget, scale=scale)
    if not report.ok:
        raise AssertionError(str(report))
    return report


def rms(values: NDArray[Any]) -> float:
    """Root of the mean square, without overflow or underflow; 0 of nothing."""
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest == 0.0 or not np.isfinite(largest):
        return largest
    return largest * float(np.sqrt(np.mean(np.square(values / largest))))


def _scale_of_each(names: Mapping[str, Tensor], scale: Scale) -> dict[str, float]:
    if not isinstance(scale, Mapping):
        return dict.fromkeys(names, scale)
    for pattern in scale:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"scale names {pattern!r}, which no tensor matches")
    return {
        name: max((s for pattern, s in scale.items() if fnmatchcase(name, pattern)), default=0.0)
        for name in names
    }


def _misfit(sides: Mapping[str, Tensor | None], self_oracle: bool) -> str:
    """Why the sides cannot be compared; empty if they can."""
    absent = [side for side, tensor in sides.items() if tensor is None]
    if absent:
        return f"missing in the {absent[0]}"
    ref, port, oracle = (tensor for tensor in sides.values() if tensor is not None)
    if not ref.values.shape == port.values.shape == oracle.values.shape:
        return f"shape {ref.values.shape} in the reference, {port.values.shape} in the port" + (
            "" if self_oracle else f", {oracle.values.shape} in the oracle"
        )
    if not ref.is_float == port.is_float == oracle.is_float:
        return f"{ref.dtype} in the reference, {port.dtype} in the port: floats against integers"
    if not ref.is_float:
        return ""
    for side, tensor in sides.items():
        if tensor is not None and tensor.dtype != "float64" and (self_oracle or side == "oracle"):
            return f"{tensor.dtype} where float64 is asked, in the {side}"
    if (ref.dtype == "float64") != (port.dtype == "float64"):
        return f"{ref.dtype} in the reference against {port.dtype} in the port: not one precision"
    return ""


def _measure(
    name: str, ref: Tensor, port: Tensor, oracle: Tensor, budget: Budget, scale: float
) -> TensorReport:
    r, p, o = ref.values, port.values, oracle.values
    kinds = [_kind_of_each(values) for values in (r, p, o)]
    misplaced = (kinds[1] != kinds[0]) | (kinds[1] != kinds[2])
    if misplaced.any():
        return _failed(
            name,
            budget,
            ref,
            port,
            f"{int(misplaced.sum())} of {misplaced.size} entries: NaN or infinity on one side only",
            _worst(misplaced, r, p, o),
        )
    finite = kinds[0] == 0
    rf, pf, of = r[finite], p[finite], o[finite]
    with np.errstate(over="ignore"):  # an infinite difference is a large one
        difference = np.abs(pf - of)
        ref_error = rms(rf - of)
    port_error, size = rms(difference), max(rms(of), scale)
    allowed = budget.allowed(ref_error, size) if ref.is_float else 0.0
    ok = port_error <= allowed
    relative = _ratio(difference, np.abs(of))
    # "higher" never interpolates, so that an infinite error stays one and is not NaN.
    p50, p99, largest = np.quantile(
        relative if relative.size else np.zeros(1), [0.5, 0.99, 1.0], method="higher"
    )
    everywhere = np.zeros(r.shape)
    everywhere[finite] = difference
    index, values = _worst(everywhere, r, p, o) if relative.size else (None, None)
    return TensorReport(
        name=name,
        budget=budget.name,
        shape=r.shape,
        ref_dtype=ref.dtype,
        port_dtype=port.dtype,
        ok=ok,
        ratio=float(_ratio(np.array(port_error), np.array(allowed))),
        message="" if ok else _hint(rms(of), rf.size, ref.is_float),
        port_error=port_error,
        ref_error=ref_error,
        allowed=allowed,
        sees=float(_ratio(np.array(allowed), np.array(rms(of)))),
        relative_p50=float(p50),
        relative_p99=float(p99),
        relative_max=float(largest),
        ulp_max=_ulps(rf, pf, max(EPSILON.get(d, 1.0) for d in (ref.dtype, port.dtype))),
        smallest_factor=float(
            _ratio(np.array(max(port_error - budget.floor * size, 0.0)), np.array(ref_error))
        ),
        worst_index=index,
        worst_values=values,
    )


def _failed(
    name: str,
    budget: Budget,
    ref: Tensor | None,
    port: Tensor | None,
    message: str,
    worst: tuple[Any, Any] = (None, None),
) -> TensorReport:
    present = ref or port
    return TensorReport(
        name=name,
        budget=budget.name,
        shape=None if present is None else present.values.shape,
        ref_dtype=None if ref is None else ref.dtype,
        port_dtype=None if port is None else port.dtype,
        ok=False,
        ratio=float("inf"),
        message=message,
        worst_index=worst[0],
        worst_values=worst[1],
    )


def _hint(oracle_rms: float, size: int, is_float: bool) -> str:
    if not is_float:
        return "integers must be equal"
    if size and oracle_rms == 0.0:
        return "the oracle is zero everywhere; see `scale` if rounding noise is meant"
    return ""


def _kind_of_each(values: NDArray[Any]) -> NDArray[np.int8]:
    """0 finite, 1 NaN, 2 infinity, 3 minus infinity."""
    kinds = np.isnan(values) + 2 * np.isposinf(values) + 3 * np.isneginf(values)
    return kinds.astype(np.int8)


def _worst(
    badness: NDArray[Any], r: NDArray[Any], p: NDArray[Any], o: NDArray[Any]
) -> tuple[tuple[int, ...], tuple[float, float, float]]:
    index = tuple(int(i) for i in np.unravel_index(np.argmax(badness), badness.shape))
    return index, (r[index].item(), p[index].item(), o[index].item())


def _ratio(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """a / b, with 0 / 0 = 0 and inf for anything else over 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(a == 0, 0.0, a / b)


def _ulps(a: NDArray[Any], b: NDArray[Any], epsilon: float) -> float:
    """The largest |a - b| in units of the last place of the larger one."""
    with np.errstate(over="ignore"):
        difference = np.abs(a - b)
    _, exponents = np.frexp(np.maximum(np.abs(a), np.abs(b)).astype(np.float64))
    return float(np.max(_ratio(difference, np.ldexp(epsilon, exponents - 1)), initial=0.0))

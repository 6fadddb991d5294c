"""What a comparison found: one entry a tensor, and a table of those that matter."""

from collections.abc import Iterable
from dataclasses import dataclass

from parity_tests.harness.budgets import Budget

MOST_ROWS = 20  # of failures in a printed report; the rest is counted


@dataclass(frozen=True)
class TensorReport:
    """One tensor. Errors are rms over the finite entries; NaN where nothing could be measured.

    `ratio` is port_error / allowed, inf for what no budget excuses: a missing tensor, another
    shape or precision, a NaN or infinity at another place. Elementwise figures and ulps are a
    diagnosis; the verdict is `ok`.
    """

    name: str
    budget: str
    shape: tuple[int, ...] | None
    ref_dtype: str | None
    port_dtype: str | None
    ok: bool
    ratio: float
    message: str = ""  # why it failed, where the ratio does not say it
    port_error: float = float("nan")
    ref_error: float = float("nan")
    allowed: float = float("nan")
    sees: float = float("nan")  # the relative change that is just seen: allowed / oracle's rms
    relative_p50: float = float("nan")  # |port - oracle| / |oracle|, elementwise
    relative_p99: float = float("nan")
    relative_max: float = float("nan")
    ulp_max: float = float("nan")  # between port and reference, in the coarser of their dtypes
    smallest_factor: float = float("nan")  # the budget's factor that would just pass
    worst_index: tuple[int, ...] | None = None  # of the largest |port - oracle|
    worst_values: tuple[float, float, float] | None = None  # there: reference, port, oracle

    @property
    def finding(self) -> str:
        """The ratio, or why there is none."""
        measured = self.ratio < float("inf") or not self.message
        return f"ratio {self.ratio:.2g}" if measured else self.message

    def __str__(self) -> str:
        text = f"{self.name}: {self.finding}"
        if self.message and self.message != self.finding:
            text += f"; {self.message}"
        if self.worst_index is not None and self.worst_values is not None:
            ref, port, oracle = self.worst_values
            text += f"; at {list(self.worst_index)} reference {ref!r}, port {port!r}"
            text += "" if oracle == ref else f", oracle {oracle!r}"
        return text


@dataclass(frozen=True)
class Report:
    """At least one tensor, in the reference's order. `budget` is None where several are merged."""

    tensors: tuple[TensorReport, ...]
    budget: Budget | None

    def __post_init__(self) -> None:
        if not self.tensors:
            raise ValueError("nothing to compare: no tensor on any side")

    @property
    def ok(self) -> bool:
        return all(tensor.ok for tensor in self.tensors)

    @property
    def failures(self) -> tuple[TensorReport, ...]:
        return tuple(tensor for tensor in self.tensors if not tensor.ok)

    @property
    def worst(self) -> TensorReport:
        """The largest ratio; a failure before any that passes."""
        return max(self.tensors, key=lambda tensor: (not tensor.ok, tensor.ratio))

    @property
    def ratio(self) -> float:
        return self.worst.ratio

    @property
    def sees(self) -> float:
        """What changes any tensor by more, in relative rms, is seen; 0 of integers alone."""
        return self._least_seen.sees if self._measured else 0.0

    @property
    def limits(self) -> str:
        """What a comparison below float64 cannot tell; empty for one that has no such limit."""
        if self.budget is None or self.budget.factor == 0 or not self._measured:
            return ""
        return (
            f"tells accuracy, not function: a fault that changes {self._least_seen.name} by less "
            f"than {self.sees:.1e} passes, a right port that rounds more may be accused; float64 "
            "and the semantic budget tell the two apart"
        )

    @property
    def _measured(self) -> list[TensorReport]:
        return [tensor for tensor in self.tensors if tensor.sees < float("inf")]

    @property
    def _least_seen(self) -> TensorReport:
        return max(self._measured, key=lambda tensor: tensor.sees)

    def __str__(self) -> str:
        failed = len(self.failures)
        verdict = f"{failed} of {len(self.tensors)} tensors differ" if failed else "parity"
        budget = "several budgets" if self.budget is None else f"budget {self.budget.name}"
        if self.budget is not None:
            budget += f": {self.budget.factor:g} × reference error + {self.budget.floor:.1e} × rms"
        lines = [f"{verdict} ({len(self.tensors)} compared, {budget})", _HEADER]
        lines += [_row(tensor) for tensor in self.failures[:MOST_ROWS]]
        if failed > MOST_ROWS:
            lines.append(f"  … and {failed - MOST_ROWS} more")
        if not failed:
            lines.append(_row(self.worst))
        lines.append(f"worst: {self.worst}")
        lines += [self.limits] if self.limits else []
        return "\n".join(lines)


def merge(reports: Iterable[Report]) -> Report:
    """One report of several, in order."""
    reports = tuple(reports)
    budgets = {report.budget for report in reports}
    budget = budgets.pop() if len(budgets) == 1 else None
    return Report(tuple(tensor for report in reports for tensor in report.tensors), budget)


def failed(name: str, budget: Budget, message: str) -> Report:
    """The report of one thing that could not be compared at all."""
    tensor = TensorReport(name, budget.name, None, None, None, False, float("inf"), message)
    return Report((tensor,), budget)


_HEADER = (
    f"  {'tensor':36} {'shape':16} {'ratio':>8} {'port err':>8} {'ref err':>8} {'allowed':>8}"
    f" {'p50':>8} {'p99':>8} {'max':>8} {'ulp':>8} {'factor':>8}"
)


def _row(tensor: TensorReport) -> str:
    shape = "" if tensor.shape is None else "×".join(map(str, tensor.shape)) or "scalar"
    if tensor.port_error != tensor.port_error:  # NaN: nothing was measured
        return f"  {tensor.name:36} {shape:16} {tensor.message}"
    figures = (
        tensor.ratio,
        tensor.port_error,
        tensor.ref_error,
        tensor.allowed,
        tensor.relative_p50,
        tensor.relative_p99,
        tensor.relative_max,
        tensor.ulp_max,
        tensor.smallest_factor,
    )
    columns = " ".join(f"{figure:8.1e}" for figure in figures)
    return f"  {tensor.name:36} {shape:16} {columns}"

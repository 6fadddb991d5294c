"""What `locate` compared of one layer, and the table of all of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from parity_tests.harness.report import Report

Direction = Literal["forward", "backward"]
Mode = Literal["isolated", "cascaded", "inputs"]  # "inputs": of a run of the whole


@dataclass(frozen=True)
class Check:
    """One layer, one direction, one mode."""

    name: str  # the reference's, dotted; empty for the model itself
    label: str  # the same for people: "model", or "name#2" for a second call
    port: str
    direction: Direction
    mode: Mode
    report: Report
    doubt: str = ""  # why a difference in isolation is no proof against this layer
    is_tap: bool = False  # of the port: alone it is the stretch since the taps before it

    @property
    def ok(self) -> bool:
        return self.report.ok

    def __str__(self) -> str:
        worst, where = self.report.worst, f"{self.label} ({self.direction}, {self.mode})"
        if worst.ratio == float("inf") and worst.message:
            return f"{where}: {worst.message}"
        return f"{where}: ratio {worst.ratio:.1e}"


_COLUMNS: tuple[tuple[Direction, Mode], ...] = (
    ("forward", "cascaded"),
    ("forward", "isolated"),
    ("backward", "cascaded"),
    ("backward", "isolated"),
)


def table(checks: Sequence[Check], *, same_function: bool) -> str:
    """Ratio to the budget of each layer, by direction and mode; ! where it differs.

    Of what is the same as a whole a layer that is not is "other", and no number.
    """
    cells = {(c.label, c.direction, c.mode): c for c in checks}
    layers = {c.label: c.port for c in checks}
    first = max(len(label) for label in [*layers, "layer"])
    second = max(len(port) for port in [*layers.values(), "port"])
    lines = [f"{'':{first}}  {'':{second}}   {'forward':20}  backward"]
    modes = "".join(f"  {mode:>9}" for _, mode in _COLUMNS)
    lines.append(f"{'layer':{first}}  {'port':{second}}{modes}")
    for label, port in layers.items():
        row = f"{label:{first}}  {port:{second}}"
        for direction, mode in _COLUMNS:
            check = cells.get((label, direction, mode))
            row += f"  {_cell(check, same_function):>9}"
        lines.append(row.rstrip())
    return "\n".join(f"  {line}" for line in lines)


def _cell(check: Check | None, same_function: bool) -> str:
    if check is None:
        return ""
    if check.ok:
        return f"{check.report.ratio:.1e} "
    return "other " if same_function else f"{check.report.ratio:.1e}!"

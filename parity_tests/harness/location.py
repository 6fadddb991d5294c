"""What `locate` found: every check of every layer, and which layer is to blame."""

from dataclasses import dataclass
from typing import Literal

from parity_tests.harness.report import Report

Direction = Literal["forward", "backward"]
Mode = Literal["isolated", "cascaded"]


@dataclass(frozen=True)
class Check:
    """One layer, one direction, one mode."""

    name: str  # the reference's, dotted; empty for the model itself
    label: str  # the same for people: "model", or "name#2" for a second call
    port: str
    direction: Direction
    mode: Mode
    report: Report

    @property
    def ok(self) -> bool:
        return self.report.ok

    def __str__(self) -> str:
        return f"{self.label} ({self.direction}, {self.mode}): ratio {self.report.ratio:.1e}"


@dataclass(frozen=True)
class Location:
    """Checks in the order of execution: of the forward pass, then of the backward pass."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def guilty(self) -> tuple[Check, ...]:
        """Layers that differ on the reference's own input while every tapped layer inside agrees.

        Those that differ in the forward pass come first; a backward pass is held against a layer
        only where the forward pass of it and of all inside is right.
        """
        forward = self._failing("isolated", "forward")
        backward = self._failing("isolated", "backward")
        wrong_forward = {check.name for check in forward}
        wrong = wrong_forward | {check.name for check in backward}
        return (
            *(c for c in forward if not _any_inside(c.name, wrong_forward)),
            *(
                c
                for c in backward
                if c.name not in wrong_forward and not _any_inside(c.name, wrong)
            ),
        )

    @property
    def first(self) -> Check | None:
        """The first guilty layer; without one, the first tap that differs; None without either."""
        return next(iter(self.guilty + self.cascaded_failures), None)

    @property
    def cascaded_failures(self) -> tuple[Check, ...]:
        """Taps that differ when each model runs on its own, in order of execution."""
        return self._failing("cascaded", "forward") + self._failing("cascaded", "backward")

    @property
    def verdict(self) -> str:
        """One line: the first guilty layer, and how far it is beyond the budget."""
        if self.ok:
            worst = max(self.checks, key=lambda check: check.report.ratio)
            return f"no layer differs ({len(self.checks)} checks); the nearest is {worst}"
        if self.guilty:
            return f"first guilty layer: {self.guilty[0]}"
        return f"no layer is guilty on its own; first difference: {self.first}"

    def __str__(self) -> str:
        lines = [self.verdict]
        if self.first is not None:
            lines.append(f"  {self.first.report.worst}")
        lines += [f"  also guilty: {check}" for check in self.guilty[1:]]
        if self.cascaded_failures:
            lines.append(f"  first difference of a whole run: {self.cascaded_failures[0]}")
        return "\n".join([*lines, self.table()])

    def table(self) -> str:
        """Ratio to the budget of each layer, by direction and mode; ! where it differs."""
        columns: list[tuple[Direction, Mode]] = [
            ("forward", "cascaded"),
            ("forward", "isolated"),
            ("backward", "cascaded"),
            ("backward", "isolated"),
        ]
        cells = {(c.label, c.direction, c.mode): c for c in self.checks}
        layers = {c.label: c.port for c in self.checks}
        first = max(len(label) for label in [*layers, "layer"])
        second = max(len(port) for port in [*layers.values(), "port"])
        lines = [f"{'':{first}}  {'':{second}}   {'forward':20}  backward"]
        modes = "".join(f"  {mode:>9}" for _, mode in columns)
        lines.append(f"{'layer':{first}}  {'port':{second}}{modes}")
        for label, port in layers.items():
            row = f"{label:{first}}  {port:{second}}"
            for direction, mode in columns:
                check = cells.get((label, direction, mode))
                text = (
                    "" if check is None else f"{check.report.ratio:.1e}{' ' if check.ok else '!'}"
                )
                row += f"  {text:>9}"
            lines.append(row.rstrip())
        return "\n".join(f"  {line}" for line in lines)

    def _failing(self, mode: Mode, direction: Direction) -> tuple[Check, ...]:
        return tuple(
            c for c in self.checks if not c.ok and c.mode == mode and c.direction == direction
        )


def _any_inside(name: str, others: set[str]) -> bool:
    prefix = f"{name}." if name else ""
    return any(other != name and other.startswith(prefix) for other in others)

"""The ladder and the kill matrix, for a terminal and as JSON."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
from rich.table import Table
from rich.text import Text

from jax_attn.console import VerbatimConsole
from parity_tests.harness.budgets import SEMANTIC
from parity_tests.suite.ladder import RUNGS, RungResult
from parity_tests.suite.matrix import BY_NAME, NO_BUG, MutantResult, problems, tally
from parity_tests.suite.mutants import REGISTRY
from parity_tests.suite.mutants.baselines import RULES

MOST_FAILURES = 3  # printed in full for each rung
PLAIN_LINE_EVERY_S = 15.0


class Progress:
    """How far long work is: a live line on a terminal, now and then a plain one elsewhere."""

    def __init__(self, console: VerbatimConsole) -> None:
        self._console = console
        self._status = console.status("") if console.live else None
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def update(self, line: str) -> None:
        if self._status:
            self._status.update(line)
        elif time.monotonic() - self._last_line >= PLAIN_LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(line)


def device() -> str:
    found = jax.devices()[0]
    return f"{found.platform} ({found.device_kind}), jax {jax.__version__}"


def print_ladder(console: VerbatimConsole, results: Sequence[RungResult]) -> None:
    table = Table(title=f"torch_ref against jax_attn on {device()}", title_justify="left")
    for name in ("rung", "what", "checks", "worst ratio", "float64 difference", "seconds"):
        table.add_column(name, justify="left" if name in ("rung", "what") else "right")
    table.add_column("verdict")
    for result in results:
        table.add_row(
            result.rung,
            RUNGS[result.rung],
            f"{result.checks:,}",
            ratio(result.worst_ratio),
            f"{result.semantic_difference:.1e}" if result.semantic_difference else "",
            f"{result.seconds:.1f}",
            Text("same", "green") if result.ok else Text("differs", "bold red"),
        )
    console.print(table)
    console.print(
        f"{sum(r.checks for r in results):,} checks. A ratio is the port's error over what the "
        f"budget allows. {worst_difference(results)}",
    )
    if left_out := not_run(results):
        console.print(f"Nothing is said of the rungs that were not run: {', '.join(left_out)}.")
    for result in results:
        for failure in result.failures[:MOST_FAILURES]:
            console.print(Text(f"\n{result.rung} ", "bold red"), end="")
            console.print(f"{failure.check}\n{failure.detail}")
        if len(result.failures) > MOST_FAILURES:
            console.print(f"… and {len(result.failures) - MOST_FAILURES} more in {result.rung}")


def worst_difference(results: Sequence[RungResult]) -> str:
    worst = max(results, key=lambda result: result.semantic_difference)
    if not worst.semantic_difference:
        return "No difference in float64."
    return (
        f"Worst relative difference in float64: {worst.semantic_difference:.1e} ({worst.rung}); "
        f"allowed {SEMANTIC.floor:.0e}."
    )


def not_run(results: Sequence[RungResult]) -> list[str]:
    ran = {result.rung for result in results}
    return [rung for rung in RUNGS if rung not in ran]


def print_matrix(console: VerbatimConsole, results: Sequence[MutantResult]) -> None:
    """One row a bug: x where a rung or a public suite's rule catches it, ! where it raises.

    A blank is a rung that was not run, for a lower one is named for the bug.
    """
    table = Table(title="Planted bugs: what catches them", title_justify="left", padding=(0, 0))
    table.add_column("bug", no_wrap=True)
    for column in [*RUNGS, *RULES]:
        table.add_column(column, justify="center", width=5, overflow="fold")
    marks = {
        "passes": Text("·", "dim"),
        "differs": Text("x", "green"),
        "raises": Text("!", "yellow"),
        "not run": Text(),
    }
    for kind, group in groupby(results, key=lambda r: kind_of(r)):
        table.add_row(Text(kind, "bold"))
        for result in group:
            mutant = BY_NAME.get(result.name)
            alike = " (equivalent)" if mutant and mutant.equivalent else ""
            cells = [marks[result.rungs.get(rung, "not run")] for rung in RUNGS]
            cells += [Text("x", "blue") if result.rules[r] else marks["passes"] for r in RULES]
            table.add_row(f"  {result.name}{alike}", *cells)
    counts = tally(results)
    table.add_section()
    table.add_row(Text("caught", "bold"), *(str(counts[column]) for column in [*RUNGS, *RULES]))
    console.print(table)
    real = [r for r in results if r.name != NO_BUG and not BY_NAME[r.name].equivalent]
    caught = sum(bool(result.failed) for result in real)
    console.print(
        f"{caught} of {len(real)} bugs caught; {len(results) - 1 - len(real)} equivalent ones "
        f"listed. Rules of public suites: {', '.join(f'{rule} {counts[rule]}' for rule in RULES)}.",
    )
    if not_tried := untried(results):
        console.print(not_tried)
    for control in (result for result in results if result.name == NO_BUG):
        wrong = [rule for rule, caught in control.rules.items() if caught]
        if wrong:
            console.print(f"False alarms on the port as it is: {', '.join(wrong)}.")
    for problem in problems(results):
        console.print(Text.assemble(("problem", "bold red"), f" {problem}"))


def untried(results: Sequence[MutantResult]) -> str:
    """Which bugs were not planted, if any, in one sentence."""
    missing = len(REGISTRY) - (len(results) - 1)
    if not missing:
        return ""
    return f"{missing} bugs are not tried: other rungs than these are named for them."


def kind_of(result: MutantResult) -> str:
    return "control" if result.name == NO_BUG else BY_NAME[result.name].kind


def write_json(path: Path, ladder: Sequence[RungResult], matrix: Sequence[MutantResult]) -> None:
    """Every figure of both tables. Infinite ratios become null."""
    record: dict[str, Any] = {
        "device": device(),
        "rungs": [
            {name: value for name, value in asdict(result).items() if name != "reached"}
            | {"ok": result.ok}
            | ({"worst_ratio": None} if math.isinf(result.worst_ratio) else {})
            for result in ladder
        ],
        "mutants": [asdict(result) | {"kind": kind_of(result)} for result in matrix],
        "problems": problems(matrix) if matrix else [],
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def ratio(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2g}"

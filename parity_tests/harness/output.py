"""Tables for a terminal."""

import math
from collections.abc import Sequence

import jax
from rich.console import Console
from rich.table import Table

from parity_tests.harness.ladder import RUNGS, RungResult

MOST_FAILURES = 3  # printed in full for each rung


def device() -> str:
    found = jax.devices()[0]
    return f"{found.platform} ({found.device_kind}), jax {jax.__version__}"


def print_ladder(console: Console, results: Sequence[RungResult]) -> None:
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
            "[green]same[/]" if result.ok else "[bold red]differs[/]",
        )
    console.print(table)
    worst = max(results, key=lambda result: result.semantic_difference)
    say(
        console,
        f"{sum(r.checks for r in results):,} checks. A ratio is the port's error over what the "
        f"budget allows. Worst relative difference in float64: {worst.semantic_difference:.1e} "
        f"({worst.rung}); allowed 1e-12.",
    )
    for result in results:
        for failure in result.failures[:MOST_FAILURES]:
            console.print(f"\n[bold red]{result.rung}[/] ", end="")
            say(console, f"{failure.check}\n{failure.detail}")
        if len(result.failures) > MOST_FAILURES:
            say(console, f"… and {len(result.failures) - MOST_FAILURES} more in {result.rung}")


def ratio(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2g}"


def say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)

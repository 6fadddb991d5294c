"""`python -m parity_tests`: is the port the reference, and would the suite notice if not?"""

import os
import sys

# Several processes share an accelerator's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from dataclasses import dataclass
from pathlib import Path

import jax
import tyro
from rich.console import Console

from parity_tests.harness import output
from parity_tests.harness.guilty import first_guilty_layer
from parity_tests.harness.ladder import RUNGS, run_task
from parity_tests.harness.workers import in_processes


@dataclass(frozen=True)
class Arguments:
    """Compare jax_attn with torch_ref, rung by rung; exit code 1 if they differ."""

    mutants: bool = False  # also plant every bug of the registry and see which rung catches it
    json: Path | None = None  # file for all figures
    report: Path | None = None  # file for one HTML page: tables and attention weights
    seeds: int = 1  # how many times every rung is run, each time with other numbers
    rungs: tuple[str, ...] = tuple(RUNGS)  # only these rungs
    jobs: int = 0  # processes; 0 = one for each core, or one if there is an accelerator


def main() -> int:
    arguments = tyro.cli(Arguments, prog="python -m parity_tests")
    unknown = [rung for rung in arguments.rungs if rung not in RUNGS]
    if unknown or arguments.seeds < 1:
        what = f"no such rung: {', '.join(unknown)}; there are {', '.join(RUNGS)}"
        print(
            f"parity_tests: error: {what if unknown else '--seeds must be at least 1'}",
            file=sys.stderr,
        )
        return 2
    console = Console()
    jobs = arguments.jobs or (os.cpu_count() or 1 if jax.default_backend() == "cpu" else 1)
    tasks = [(rung, arguments.seeds) for rung in arguments.rungs]
    results = []
    with console.status("") as status:
        for result in in_processes(run_task, tasks, min(jobs, len(tasks))):
            results.append(result)
            status.update(f"{len(results)} of {len(tasks)} rungs")
    output.print_ladder(console, results)
    ok = all(result.ok for result in results)
    if not ok:
        console.print(first_guilty_layer(), highlight=False, markup=False, soft_wrap=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())

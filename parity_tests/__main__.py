"""`python -m parity_tests`: is the port the reference, and would the suite notice if not?"""

import os
import sys
from importlib.util import find_spec

# Several processes may share an accelerator's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from dataclasses import dataclass
from pathlib import Path

import jax

from jax_attn.compiling.backend import require_device
from jax_attn.console import VerbatimConsole, command
from jax_attn.domains import COUNT, SIZE
from jax_attn.runs.tyro_or_exit import read_arguments
from parity_tests.suite import output, page
from parity_tests.suite.guilty import first_guilty_layer
from parity_tests.suite.ladder import RUNGS, run_task
from parity_tests.suite.matrix import NO_BUG, plant_all, problems, within_reach
from parity_tests.suite.workers import share, workers

WIDTH = 170  # of what is not a terminal: the kill matrix has many columns


@dataclass(frozen=True)
class Arguments:
    """Compare jax_attn with torch_ref, rung by rung; exit code 1 if they differ."""

    mutants: bool = False  # also plant every bug of the registry and see which rung catches it
    harness: bool = False  # instead: what the harness says of correct and of faulty ports
    json: Path | None = None  # file for all figures
    report: Path | None = None  # file for one HTML page: tables and attention weights
    seeds: int = 1  # how many times every rung is run, each time with other numbers
    rungs: tuple[str, ...] = tuple(RUNGS)  # only these rungs
    jobs: int = 0  # processes; 0 = one for each core, or one if there is an accelerator


# Minutes on two cores: of the ladder, of every further seed, of the planted bugs, of the ports.
LADDER, SEED, BUGS, HARNESS = 3.5, 0.3, 6.5, 3.5
DESCRIPTION = f"""{Arguments.__doc__}

On two cores it takes about {LADDER} minutes, with --mutants {LADDER + BUGS:.0f}, and with
--harness, which compares ports of other people's layers instead, {HARNESS}."""


def main() -> int:
    return command("parity_tests", compare)


def compare() -> int:
    arguments = read_arguments(Arguments, "parity_tests", DESCRIPTION)
    unknown = [rung for rung in arguments.rungs if rung not in RUNGS]
    if unknown:
        return refuse(f"no such rung: {', '.join(unknown)}; there are {', '.join(RUNGS)}")
    if not arguments.rungs:
        return refuse(f"--rungs names none; there are {', '.join(RUNGS)}")
    for flag, path in (("--json", arguments.json), ("--report", arguments.report)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            return refuse(f"{flag} {path} cannot be a file; give one in a folder that is there")
    if arguments.harness and (problem := not_with_harness(arguments)):
        return refuse(problem)
    SIZE.check("--seeds", arguments.seeds)
    COUNT.check("--jobs", arguments.jobs)
    require_device()
    goes_on = (
        (lambda _: None) if arguments.json or arguments.report else None
    )  # the file is what is wanted
    console = VerbatimConsole(goes_on)
    if not console.live:
        console = VerbatimConsole(goes_on, width=WIDTH)
    on_cpu = jax.default_backend() == "cpu"
    jobs = arguments.jobs or (os.cpu_count() or 1 if on_cpu else 1)

    if arguments.harness:
        return judge_harness(console, jobs, arguments.json)
    rungs = tuple(dict.fromkeys(arguments.rungs))  # none twice
    console.print(expected(rungs, arguments.seeds, arguments.mutants))
    with workers(jobs) as crew, output.Progress(console) as progress:
        tasks = [(rung, arguments.seeds, arguments.mutants) for rung in rungs]
        climbed = []  # each rung's worker and result
        for worker, result in share(crew, run_task, tasks):
            climbed.append((worker, result))
            progress.update(f"{len(climbed)} of {len(tasks)} rungs")
        ladder = sorted((r for _, r in climbed), key=lambda r: arguments.rungs.index(r.rung))
        same = all(result.ok for result in ladder)
        output.print_ladder(console, ladder)

        matrix = []
        if arguments.mutants and same:
            names = [NO_BUG, *within_reach(arguments.rungs)]
            for result in plant_all(crew, names, climbed):
                matrix.append(result)
                progress.update(f"{len(matrix)} of {len(names)} planted bugs")
            output.print_matrix(console, matrix)

    guilty = None if same else first_guilty_layer()
    if guilty is not None:
        console.print()
        console.print(guilty)
        if arguments.mutants:
            console.print("No bugs are planted in a port that differs already.")
    if arguments.json:
        output.write_json(arguments.json, ladder, matrix)
    if arguments.report:
        page.write(arguments.report, ladder, matrix, guilty)
        console.print(f"the page is {arguments.report}")
    return 0 if same and not problems(matrix) else 1


def not_with_harness(arguments: Arguments) -> str:
    """Why these arguments do not go together; empty if they do."""
    if find_spec("equinox") is None:
        return "--harness needs Equinox, which is not installed: pip install -e '.[test]'"
    others = {
        "--mutants": arguments.mutants,
        "--report": arguments.report is not None,
        "--seeds": arguments.seeds != 1,
        "--rungs": arguments.rungs != tuple(RUNGS),
    }
    given = [flag for flag, is_given in others.items() if is_given]
    return f"--harness runs no rung; leave out {', '.join(given)}" if given else ""


def judge_harness(console: VerbatimConsole, jobs: int, json: Path | None) -> int:
    # These import Linen, Equinox and transformers, which the ladder does without.
    from parity_tests.ports import PORTS
    from parity_tests.suite.controls import ask_all
    from parity_tests.suite.controls_output import print_answers, write_answers

    console.print(f"about {HARNESS} minutes on two cores")
    found = {}
    with workers(jobs) as crew, output.Progress(console) as progress:
        for _, answers in share(crew, ask_all, PORTS):
            found[answers[0].port] = answers
            progress.update(f"{len(found)} of {len(PORTS)} ports")
    answers = [answer for name in PORTS for answer in found[name]]
    print_answers(console, answers)
    if json:
        write_answers(json, answers)
    return 0 if all(answer.ok for answer in answers) else 1


def expected(rungs: tuple[str, ...], seeds: int, mutants: bool) -> str:
    """How long it takes, in words: some rungs take less than all."""
    minutes = LADDER + SEED * (seeds - 1) + BUGS * mutants
    about = "about" if len(rungs) == len(RUNGS) else "less than"
    return f"{about} {minutes:.3g} minutes on two cores"


def refuse(message: str) -> int:
    print(f"parity_tests: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

"""Train one of the lecture's models on a text: `python train.py [PRESET] [--flag value ...]`.

Arguments, console, training, exit code. What a training is, is in jax_attn/runs: `session.py` from
a run's folder to its report, `loop.py` in between; the step itself is in jax_attn/training/step.py.
"""

from __future__ import annotations

import gc

gc.disable()  # until all is imported: modules live on, and searching them takes half a second

import sys

from rich.console import Console

from jax_attn import InputError
from jax_attn.compiling.program_cache import keep_programs
from jax_attn.data import cache_dir
from jax_attn.runs.command_line import NewRun, ResumedRun, parse_arguments
from jax_attn.runs.session import Session
from jax_attn.runs.stopping import StopOnSignal

gc.freeze()
gc.enable()


def train(arguments: NewRun | ResumedRun, console: Console) -> int:
    """Runs the training; returns the exit code."""
    with StopOnSignal() as stop:
        session = Session(console, stop, debug_nans=arguments.debug_nans)
        if isinstance(arguments, ResumedRun):
            result = session.old_run(
                arguments.resume, arguments.steps, arguments.schedule_steps, arguments.data
            )
        else:
            result = session.new_run(arguments.config, arguments.out, arguments.preset)
    if not result.finite:
        return 1
    return 0 if result.signal is None else 128 + result.signal


def main() -> int:
    try:
        arguments = parse_arguments(sys.argv[1:])
        if isinstance(arguments, NewRun) and arguments.plan is not None:
            from jax_attn.runs.plan_command import plan_run  # not what most runs need

            return plan_run(arguments, arguments.plan, Console())
        keep_programs(cache_dir() / "programs")
        return train(arguments, Console())
    except InputError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while the run is being finished: all is saved
        return 130


if __name__ == "__main__":
    sys.exit(main())

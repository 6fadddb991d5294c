"""Train one of the lecture's models on a text: `python train.py [PRESET] [--flag value ...]`.

Arguments, console, training, exit code. What a training is, is in jax_attn/runs: `session.py` from
a run's folder to its report, `loop.py` in between; the step itself is in jax_attn/training/step.py.
"""

from __future__ import annotations

import gc

gc.disable()  # until all is imported: modules live on, and searching them takes half a second

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something to save

from jax_attn.compiling.program_cache import keep_programs
from jax_attn.console import VerbatimConsole, command
from jax_attn.data import cache_dir
from jax_attn.runs.command_line import NewRun, ResumedRun, parse_arguments
from jax_attn.runs.run_console import RunConsole
from jax_attn.runs.session import Session
from jax_attn.runs.start import Init
from jax_attn.runs.stopping import StopOnSignal

gc.freeze()
gc.enable()


def train(arguments: NewRun | ResumedRun, console: RunConsole) -> int:
    """Runs the training; returns the exit code."""
    with StopOnSignal(console.say) as stop:
        session = Session(console, stop, debug_nans=arguments.debug_nans)
        if isinstance(arguments, ResumedRun):
            result = session.old_run(
                arguments.resume,
                arguments.steps,
                arguments.schedule_steps,
                arguments.data,
                arguments.validation,
            )
        else:
            init = None
            if arguments.init is not None:
                init = Init(arguments.init, arguments.init_vocabulary, arguments.given)
            result = session.new_run(arguments.config, arguments.out, arguments.preset, init)
    if not result.finite:
        return 1
    return 0 if result.signal is None else 128 + result.signal


def run() -> int:
    arguments = parse_arguments(sys.argv[1:])
    if isinstance(arguments, NewRun) and arguments.plan is not None:
        from jax_attn.runs.plan_command import plan_run  # not what most runs need

        return plan_run(arguments, arguments.plan, VerbatimConsole())
    keep_programs(cache_dir() / "programs")
    return train(arguments, RunConsole())


def main() -> int:
    return command("train.py", run)


if __name__ == "__main__":
    sys.exit(main())

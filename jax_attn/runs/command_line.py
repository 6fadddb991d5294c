"""What `train.py` is asked to do: a new run of a preset, or an old one to go on with."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jax_attn.config import TargetName, TrainConfig
from jax_attn.errors import InputError
from jax_attn.runs.presets import PRESETS
from jax_attn.runs.tyro_or_exit import tyro

DESCRIPTION = """Train one of the lecture's models on a text. Without a PRESET: mini.
`python train.py --resume RUN_DIR [--steps N] [--schedule-steps N] [--data PATH]` goes on with it.
`python train.py PRESET --plan TARGET` trains nothing: it says what an accelerator would take."""


@dataclass(frozen=True)
class NewRun:
    """Train a model."""

    preset: tyro.conf.Suppress[str]
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    out: Path | None = None  # run directory to make; default runs/PRESET-DATE-TIME
    plan: TargetName | None = None  # train nothing: what the run costs on this accelerator
    debug_nans: bool = False  # when a value is not finite, say which operation made it so


@dataclass(frozen=True)
class ResumedRun:
    """Go on with a run exactly where it stopped, under its own settings."""

    resume: Path  # run directory
    steps: int | None = None  # a new total number of steps; the learning rate keeps its schedule
    schedule_steps: int | None = None  # a new length of the learning rate's schedule
    data: str | None = None  # where the run's text is now, if it was moved; it must be the same
    debug_nans: bool = False  # when a value is not finite, say which operation made it so


def parse_arguments(arguments: list[str]) -> NewRun | ResumedRun:
    """Raises InputError for values that no configuration takes; exits with 2 for unknown flags."""
    resumed, planned = (
        any(a == flag or a.startswith(f"{flag}=") for a in arguments)
        for flag in ("--resume", "--plan")
    )
    if resumed and planned:
        raise InputError("--plan is of a new run: give its PRESET and settings, not --resume")
    if not resumed and (not arguments or arguments[0] not in (*PRESETS, "-h", "--help")):
        if arguments and not arguments[0].startswith("-"):
            raise InputError(
                f"preset {arguments[0]!r:.100} is unknown; choose {', '.join(PRESETS)}"
            )
        arguments = ["mini", *arguments]
    presets = {name: (text, NewRun(name, config)) for name, (text, config) in PRESETS.items()}
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            if resumed:
                return tyro.cli(ResumedRun, prog="train.py", args=arguments)
            return tyro.extras.overridable_config_cli(
                presets, prog="train.py", description=DESCRIPTION, args=arguments
            )
    except SystemExit as stop:
        # tyro draws a box around a configuration's own error; its one line says it better.
        cause: BaseException | None = stop
        while cause is not None:
            if isinstance(cause, InputError):
                raise cause from None
            cause = cause.__context__
        sys.stderr.write(messages.getvalue())
        raise

"""What `train.py` is asked to do: a new run of a preset, or an old one to go on with."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jax_attn.config import InitVocabulary, Paths, TargetName, TrainConfig
from jax_attn.domains import SIZE
from jax_attn.errors import InputError
from jax_attn.runs.presets import PRESETS
from jax_attn.runs.tyro_or_exit import NUMBERS, tyro

DESCRIPTION = """Train one of the lecture's models on a text. Without a PRESET: mini.
`python train.py --resume RUN_DIR [--steps N] [--schedule-steps N] [--data PATH]` goes on with it.
Texts (--data, --validation) are files, also .gz, folders, or several; README.md has more on them.
`python train.py PRESET --init SOURCE` begins with the weights, shape and tokens of SOURCE: a run,
RUN@best, RUN/checkpoints/STEP, a file of safetensors or torch.save, a folder of Hugging Face's or
nanoGPT's.
`python train.py PRESET --plan TARGET` trains nothing: it says what an accelerator would take."""


@dataclass(frozen=True)
class NewRun:
    """Train a model."""

    preset: tyro.conf.Suppress[str]
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    out: Path | None = None  # run directory to make; default runs/PRESET-DATE-TIME
    init: str | None = None  # SOURCE to start from: its weights, shape and tokens
    # of a text with characters that SOURCE does not know: refuse, or extend its tables by them
    init_vocabulary: InitVocabulary = "refuse"
    plan: TargetName | None = None  # train nothing: what the run costs on this accelerator
    debug_nans: bool = False  # when a value is not finite, say which operation made it so
    given: tyro.conf.Suppress[frozenset[str]] = frozenset()  # settings that were named: block_size


@dataclass(frozen=True)
class ResumedRun:
    """Go on with a run exactly where it stopped, under its own settings."""

    resume: Path  # run directory
    steps: int | None = None  # a new total number of steps; the learning rate keeps its schedule
    schedule_steps: int | None = None  # a new length of the learning rate's schedule
    data: Paths | None = None  # where the run's text is now, if it was moved; it must be the same
    validation: Paths | None = None  # the same of the text that it validates with
    debug_nans: bool = False  # when a value is not finite, say which operation made it so

    def __post_init__(self) -> None:
        if self.steps is not None:
            SIZE.check("--steps", self.steps)
        if self.schedule_steps is not None:
            SIZE.check("--schedule-steps", self.schedule_steps)


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
                run, unknown = tyro.cli(
                    ResumedRun,
                    prog="train.py",
                    args=arguments,
                    registry=NUMBERS,
                    return_unknown_args=True,
                )
                if unknown:
                    raise InputError(_not_with_resume(unknown[0]))
                return run
            run = tyro.extras.overridable_config_cli(
                presets, prog="train.py", description=DESCRIPTION, args=arguments, registry=NUMBERS
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
    if run.init is not None and run.plan is not None:
        raise InputError(
            "--plan loads no weights: give it the shape of SOURCE by flags, not --init"
        )
    if run.init is None and run.init_vocabulary != "refuse":
        raise InputError("--init-vocabulary is of a SOURCE that is given with --init")
    return dataclasses.replace(run, given=_named(arguments))


def _named(arguments: list[str]) -> frozenset[str]:
    """The settings that flags name: "block_size", "model.tie_embeddings" of --model.no-tie-…"""
    flags = (a.partition("=")[0].removeprefix("--") for a in arguments if a.startswith("--"))
    names = (flag.replace("-", "_") for flag in flags)
    return frozenset(name.replace("model.no_", "model.") for name in names)


def _not_with_resume(word: str) -> str:
    """Why a run that goes on does not take a word of the command line."""
    flag = word.partition("=")[0].replace("_", "-")
    if flag == "--out":
        why = ": a run goes on in its own folder"
    elif flag == "--init":
        why = ": a run goes on from its own checkpoint"
    elif word in PRESETS or flag.removeprefix("--no-").removeprefix("--") in _settings():
        why = ": its settings stay what config.json says, so that all of it is one run"
    else:
        why = ""
    *others, last = (
        "--" + field.name.replace("_", "-")
        for field in dataclasses.fields(ResumedRun)
        if field.name != "resume"
    )
    shown = flag if word.startswith("--") else repr(word)
    return f"--resume RUN takes no {shown:.100}{why}; it takes {', '.join(others)} and {last}"


def _settings() -> set[str]:
    """Names of the flags of new runs, without dashes in front."""
    found = set()
    for _, config in PRESETS.values():
        for name, value in vars(config).items():
            parts = vars(value) if dataclasses.is_dataclass(value) else {}
            found |= {f"{name}.{part}" for part in parts} or {name}
    return {name.replace("_", "-") for name in found}

"""What `train.py` is asked to do: a new run of a preset, or an old one to go on with."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

from jax_attn.config import InitVocabulary, Paths, TargetName, TrainConfig, require_paths
from jax_attn.domains import SIZE
from jax_attn.errors import InputError
from jax_attn.runs.presets import PRESETS
from jax_attn.runs.tyro_or_exit import WORDS, one_line_refusals, tyro

OVERVIEW = """Train one of the lecture's models on a text; see its losses, a sample and pictures.

  python train.py [PRESET] [--flag value ...]    a new run, in a folder under runs/
  python train.py --resume RUN                   go on with one exactly where it stopped
  python train.py PRESET --help                  every flag, with the preset's values

Presets (without one: mini)
{presets}

Flags that matter to everyone
  --data PATH ...        the text to train on: files, also .gz, folders, or several
  --validation PATH ...  the text to validate with; otherwise the last 10 % of the other one
  --tokens KIND          what a token is: char, bytes, bpe:N, or the path of a tokenizer
  --steps N              how long to train; with --resume a new total
  --batch-size N         sequences a step
  --block-size N         tokens a sequence: how far the model looks back
  --learning-rate X      the step size of AdamW
  --model.n-layer N      blocks of a GPT; --model.n-head, --model.n-embd, --model.dropout-rate
  --eval-every N         steps between two evaluations
  --checkpoint-every N   steps between two checkpoints
  --dtype KIND           float32, bfloat16, or auto
  --seed N               of initial weights, batches, dropout and the sample
  --out FOLDER           of the run, instead of runs/PRESET-DATE-TIME
  --init SOURCE          begin with the weights, shape and tokens of SOURCE: a run, RUN@best,
                         RUN/checkpoints/STEP, a file of safetensors or torch.save, a folder of
                         Hugging Face's or nanoGPT's
  --plan TARGET          train nothing: what a run takes on {targets}""".format(
    presets="\n".join(f"  {name:8} {about}" for name, (about, _) in PRESETS.items()),
    targets=", ".join(get_args(TargetName)),
)


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
        for name in ("data", "validation"):
            paths = getattr(self, name)
            if paths is not None:
                require_paths(name, [paths] if isinstance(paths, str) else paths)


def parse_arguments(arguments: list[str]) -> NewRun | ResumedRun:
    """Raises InputError for values that no configuration takes; exits with 2 for unknown flags."""
    resumed, planned = (
        any(a == flag or a.startswith(f"{flag}=") for a in arguments)
        for flag in ("--resume", "--plan")
    )
    if resumed and planned:
        raise InputError("--plan is of a new run: give its PRESET and settings, not --resume")
    if not resumed and arguments[:1] not in ([name] for name in (*PRESETS, "-h", "--help")):
        if arguments and not arguments[0].startswith("-"):
            raise InputError(
                f"preset {arguments[0]!r:.100} is unknown; choose {', '.join(PRESETS)}"
            )
        arguments = ["mini", *arguments]
    if arguments[0] in ("-h", "--help"):
        print(OVERVIEW)
        sys.exit(0)
    presets = {name: (text, NewRun(name, config)) for name, (text, config) in PRESETS.items()}
    if resumed:
        read = partial(
            tyro.cli, ResumedRun, prog="train.py", registry=WORDS, return_unknown_args=True
        )
        see = "python train.py --resume RUN --help"
        with one_line_refusals("train.py", see, lambda: read(args=["--help"])):
            run, unknown = read(args=arguments)
        if unknown:
            raise InputError(_not_with_resume(unknown[0]))
        return run
    read = partial(tyro.extras.overridable_config_cli, presets, prog="train.py", registry=WORDS)
    preset = arguments[0]
    with one_line_refusals(
        "train.py", f"python train.py {preset} --help", lambda: read(args=[preset, "--help"])
    ):
        run = read(args=arguments)
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

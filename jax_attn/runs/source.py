"""Where a model comes from, and what it needs beside its weights to read and write a text."""

from __future__ import annotations

import os
from dataclasses import dataclass

from jax_attn.config import TrainConfig
from jax_attn.data import Tokenizer
from jax_attn.errors import InputError
from jax_attn.models.language_model import LanguageModel
from jax_attn.runs.checkpoint import model_of_run
from jax_attn.runs.run import Run


@dataclass(frozen=True)
class Source:
    """A model that is ready to call, and what is known of it."""

    name: str  # as it was given
    model: LanguageModel
    tokenizer: Tokenizer | None  # None: the source does not say which
    config: TrainConfig | None  # of the run that it is; None: it is no run


def open_source(source: str | os.PathLike[str]) -> Source:
    """What is at `source`: the folder of a run, or that of a checkpoint, RUN/checkpoints/STEP.

    InputError when it is neither, or holds no whole checkpoint.
    """
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"source must be the path of a run or of a checkpoint; got {type(source).__name__}"
        )
    run = Run.open(source)
    return Source(os.fspath(source), model_of_run(run), run.tokenizer, run.config)


def load_model(source: str | os.PathLike[str]) -> LanguageModel:
    """The model at `source`, as `open_source` finds it; ready to call."""
    return open_source(source).model

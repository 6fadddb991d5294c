"""Training as a function, for notebooks and for programs of one's own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_attn.config import BigramShape, HeadShape, InitVocabulary, TrainConfig
from jax_attn.data import Tokenizer
from jax_attn.data.documents import given_paths
from jax_attn.errors import InputError
from jax_attn.models.language_model import LanguageModel

if TYPE_CHECKING:
    from jax_attn.runs.session import Session


PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class TrainResult:
    """What a training has come to."""

    path: Path  # the run's folder, for `load_model`, `resume` and `python -m jax_attn.generate`
    model: LanguageModel  # after the last step, dropout off
    # the lines of metrics.jsonl: step, train_loss (of the batches since the last one), val_loss, …
    records: list[dict[str, Any]]
    finite: bool  # False if it ended at a loss or gradient that is not; `model` is from before it
    signal: int | None  # that asked it to stop before its last step
    tokenizer: Tokenizer  # from a text to the model's ids, and back


def train(
    config: TrainConfig,
    *,
    data: PathLike | Sequence[PathLike] | None = None,
    validation: PathLike | Sequence[PathLike] | None = None,
    out: str | os.PathLike[str] | None = None,
    init: str | os.PathLike[str] | None = None,
    init_vocabulary: InitVocabulary = "refuse",
    on_record: Callable[[dict[str, Any]], object] | None = None,
) -> TrainResult:
    """Trains a model from the beginning, with the bits and the words of `python train.py`.

    `config` is a preset's, `PRESETS["mini"][1]`, or one made from it by `dataclasses.replace`.
    `data` and `validation` name texts in the place of those of `config`; `out` is the run's folder
    to make, by default one under runs/. `init` is a SOURCE of `load_model` to start from: the run
    has its weights, shape and tokens, and of `config` what differs from a preset must agree with
    it, but for a smaller block size; `init_vocabulary="extend"` grows its tables by characters that
    it does not know. `on_record` is called with every record as it is written: its numbers are nats
    a token, tokens a second, seconds.

    Ctrl-C saves the state and returns what there is; a second one is Python's own. In a thread,
    which no signal reaches, the training goes on to its end. InputError for a text or a folder that
    cannot be used; what `on_record` raises, when the state is saved.
    """
    if not isinstance(config, TrainConfig):
        raise InputError(
            f"config is a {type(config).__name__}, not a TrainConfig: "
            'that of a preset is PRESETS["mini"][1]'
        )
    if data is not None:
        config = dataclasses.replace(config, data=given_paths(data))
    if validation is not None:
        config = dataclasses.replace(config, validation=given_paths(validation))
    kinds = {BigramShape: "bigram", HeadShape: "head"}
    with _session(on_record) as session:
        start = None
        if init is not None:
            from jax_attn.runs.start import Init

            start = Init(init, init_vocabulary)
        folder = None if out is None else Path(out)
        return session.new_run(config, folder, kinds.get(type(config.model), "gpt"), start)


def resume(
    path: str | os.PathLike[str],
    *,
    steps: int | None = None,
    schedule_steps: int | None = None,
    data: PathLike | Sequence[PathLike] | None = None,
    validation: PathLike | Sequence[PathLike] | None = None,
    on_record: Callable[[dict[str, Any]], object] | None = None,
) -> TrainResult:
    """Goes on with the run in folder `path` where it stopped, under its own settings, as `train`.

    `steps` is a new total number of steps, no fewer than are done, else InputError. The learning
    rate keeps its schedule, and stays where that ends; `schedule_steps` gives it another length.
    `data` is where the run's text is now, if it was moved or came through a pipe, `validation` the
    one that it validates with; InputError for any other text.
    """
    with _session(on_record) as session:
        texts = (None if text is None else given_paths(text) for text in (data, validation))
        return session.old_run(path, steps, schedule_steps, *texts)


@contextlib.contextmanager
def _session(on_record: Callable[[dict[str, Any]], object] | None) -> Iterator[Session]:
    """What trains is imported when it is asked for: most who import the package do not train."""
    from jax_attn.runs.run_console import RunConsole
    from jax_attn.runs.session import Session
    from jax_attn.runs.stopping import StopOnInterrupt

    console = RunConsole()
    with StopOnInterrupt(console.say) as stop:
        yield Session(console, stop, on_record)

"""A training from the opening of its folder to the report, whoever asks for it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from jax_attn.compiling.backend import require_device
from jax_attn.compiling.precision import products
from jax_attn.config import Paths, TrainConfig
from jax_attn.data import Corpus
from jax_attn.errors import InputError
from jax_attn.nn.flash import accelerator
from jax_attn.runs.checkpoint import Checkpoints, has_checkpoint
from jax_attn.runs.commands import resume_command
from jax_attn.runs.device_choices import choose_for_device, memory_in_use
from jax_attn.runs.least_memory import require_memory
from jax_attn.runs.loop import Record, TrainingLoop
from jax_attn.runs.memory_fault import memory_explained
from jax_attn.runs.painter import Painter
from jax_attn.runs.progress import TrainingProgress
from jax_attn.runs.report import finish, introduction
from jax_attn.runs.run import FolderTaken, Run
from jax_attn.runs.run_console import RunConsole
from jax_attn.runs.run_text import corpus_of, text_of_run
from jax_attn.runs.schedule import about_schedule
from jax_attn.runs.start import Init, save_start, source_record, start_from
from jax_attn.runs.stopping import StopOnInterrupt, StopOnSignal
from jax_attn.runs.train import TrainResult


class Session:
    """What a training needs beside its run: where it speaks, and who may stop it."""

    def __init__(
        self,
        console: RunConsole,
        stop: StopOnSignal | StopOnInterrupt,
        on_record: Callable[[Record], object] | None = None,
        *,
        debug_nans: bool = False,
    ) -> None:
        self._console = console
        self._stop = stop
        self._on_record = on_record or (lambda record: None)
        self._debug_nans = debug_nans

    def new_run(
        self, config: TrainConfig, folder: Path | None, name: str, init: Init | None = None
    ) -> TrainResult:
        """In `folder`, or in one of that name and of this moment under runs/.

        `init` says what to start from; None: weights are drawn. Where it fails before there is
        anything in it to go on with, the folder goes too.
        """
        require_device()
        start = None
        if init is not None:
            start = start_from(init, config)
            config = start.config
        corpus = corpus_of(config, self._say) if start is None else start.corpus(self._say)
        _require_vocabulary(config, corpus.tokenizer.vocab_size)
        config = dataclasses.replace(  # to resume with
            config, data=corpus.name, validation=corpus.validation_name
        )
        corpus.require_block(config.block_size)
        config, reasons = choose_for_device(config, accelerator(), memory_in_use())
        require_memory(config)
        started_from = None if start is None else source_record(start.source)
        if folder is None:
            run = _create(name, config, corpus, started_from)
        else:
            run = Run.create(folder, config, corpus, started_from)
        self._stop.opened(lambda: _removed(run))
        for reason in reasons:
            self._say(f"chosen   {reason}")
        try:
            with run.locked():
                if start is not None:
                    self._say(f"start    {start.source.name}: its weights and tokens")
                    save_start(run, start.source.model)
                    self._stop.opened(lambda: _as_it_was(run))
                    del start  # a second copy of the weights
                return self._train(run, corpus)
        except BaseException as error:
            if not run.metrics.path.exists() and not has_checkpoint(run):
                removed = _removed(run)
                if isinstance(error, KeyboardInterrupt):
                    self._say(removed)
            raise

    def old_run(
        self,
        folder: str | os.PathLike[str],
        steps: int | None = None,
        schedule_steps: int | None = None,
        data: Paths | None = None,
        validation: Paths | None = None,
    ) -> TrainResult:
        """Where it stopped; `steps` and `schedule_steps` are new totals, None the old ones.

        `data` and `validation` are where the run's texts are, None where they were.
        """
        require_device()
        run = Run.open(folder)
        corpus = text_of_run(run, data, validation, warn=self._say)
        self._stop.opened(lambda: _as_it_was(run))
        run = run.with_text(corpus)
        with run.locked():
            return self._train(run.with_steps(steps, schedule_steps), corpus, run.config)

    def _say(self, line: str) -> None:
        self._console.say(line)

    def _train(self, run: Run, corpus: Corpus, before: TrainConfig | None = None) -> TrainResult:
        """`before` are the settings, so far, of a run that goes on."""
        self._console.run = run.path

        def begin() -> None:
            self._stop.begin()
            if before is not None:
                with run.writing():
                    run.write(run.path)  # steps may be others now

        with (
            memory_explained(run),
            Painter() as painter,
            contextlib.closing(Checkpoints(run, self._say)) as checkpoints,
            products(run.config),
        ):
            loop = self._begin(run, corpus, checkpoints, before)
            if loop.step >= run.config.steps:
                begin()
            with TrainingProgress(self._console, loop.step, run.config.steps) as progress:
                loop.train(progress, begin, lambda: self._stop.signal is not None, self._on_record)
            self._stop.all_is_saved(resume_command(run.path))
            result = TrainResult(
                run.path,
                loop.state.model(),
                run.metrics.records(),
                loop.healthy,
                self._stop.signal,
                corpus.tokenizer,
            )
            self._end(run, corpus, loop, painter, progress)
            return result

    def _begin(
        self,
        run: Run,
        corpus: Corpus,
        checkpoints: Checkpoints,
        before: TrainConfig | None,
    ) -> TrainingLoop:
        """The loop, before its next step; says what there is."""
        resumed = before is not None
        if before is not None:
            newest = checkpoints.newest()
            if newest is None and run.started_from is not None:
                raise InputError(
                    f"{run.path} was stopped before the weights were in it that it was to start "
                    f"from; begin it again: --init {run.started_from.get('source')!s:.200}"
                )
            if newest is None:
                self._say("no checkpoint yet: the run begins at step 0")
            done = 0 if newest is None else int(newest.name)
            if run.config.steps < done:
                raise InputError(
                    f"{run.path} has made {done:,} steps, more than {run.config.steps:,}: "
                    f"give --steps {done} or more"
                )
            for line in about_schedule(before, run.config, done):
                self._say(line)
        shapes = run.shapes()
        begun = resumed or run.started_from is not None
        restored = checkpoints.restore(shapes) if begun else None
        step = 0 if restored is None else int(restored.step)
        recorded = run.metrics.cut(step) if resumed else {}
        if resumed and recorded.get("step", 0) != step:
            self._say(f"metrics.jsonl has lost the figures before step {step:,}, or some")
        for line in introduction(run, corpus, shapes.model()):
            self._say(line)
        if step >= run.config.steps:
            more = f"{resume_command(run.path)} --steps {2 * step}"
            self._say(f"step {step:,} of {run.config.steps:,}: nothing left to train; more: {more}")
        return TrainingLoop(run, corpus, checkpoints, shapes, restored, recorded)

    def _end(
        self,
        run: Run,
        corpus: Corpus,
        loop: TrainingLoop,
        painter: Painter,
        progress: TrainingProgress,
    ) -> None:
        """Says why it is the end, or what the training has come to."""
        go_on = resume_command(run.path)
        if not loop.healthy:
            self._say(
                f"stopped: the loss or a gradient at step {loop.step + 1:,} is not finite. "
                f"The state before it is kept in {run.checkpoints_path / str(loop.step)}; "
                "try a smaller --learning-rate or --optimizer.clip-norm 1"
            )
            if self._debug_nans:
                self._say(f"step {loop.step + 1:,}: {loop.find_nan()}")
            else:
                self._say(f"which operation it is: {go_on} --debug-nans")
        elif self._stop.signal is not None:
            self._say(f"stopped at step {loop.step:,}; go on with: {go_on}")
        else:
            loop.wait()
            with run.writing():
                finish(
                    run,
                    loop.state.model(),
                    corpus,
                    loop.random_batches,
                    loop.script,
                    painter,
                    progress,
                    self._say,
                    loop.validation_loss,
                )
            if loop.divergence.remark is not None:
                self._say(loop.divergence.remark)


def _removed(run: Run) -> str:
    """Removes the folder of a run in which there is nothing to go on with; says so."""
    shutil.rmtree(run.path, ignore_errors=True)
    return f"nothing is trained yet; {run.path} is removed"


def _as_it_was(run: Run) -> str:
    return f"no step was made; the run is as it was: {resume_command(run.path)}"


def _create(
    name: str, config: TrainConfig, corpus: Corpus, started_from: dict[str, Any] | None
) -> Run:
    """A run under runs/, with the time in its name, which several runs of one second share."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for n in itertools.count(1):
        path = Path("runs") / (f"{name}-{stamp}" if n == 1 else f"{name}-{stamp}-{n}")
        with contextlib.suppress(FolderTaken):
            return Run.create(path, config, corpus, started_from)
    raise AssertionError("one of all numbers is free")


def _require_vocabulary(config: TrainConfig, n_symbols: int) -> None:
    """InputError where the model is to know fewer ids than the tokenizer has."""
    asked = getattr(config.model, "vocab_size", 0)
    if 0 < asked < n_symbols:
        raise InputError(
            f"model.vocab_size is {asked:,}, but the text's tokens are {n_symbols:,}: give "
            f"--model.vocab-size {n_symbols} or more, or leave it out"
        )

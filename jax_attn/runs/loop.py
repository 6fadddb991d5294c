"""The loop of a run: chunk after chunk, with a record, an evaluation and a checkpoint when due."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_attn.data import Corpus
from jax_attn.models.flops import utilisation
from jax_attn.models.language_model import count_parameters
from jax_attn.runs.ahead import CompiledAhead, compile_training
from jax_attn.runs.checkpoint import Checkpoints
from jax_attn.runs.chunks import chunk_end, longest_chunk, most_steps
from jax_attn.runs.divergence import Divergence
from jax_attn.runs.progress import TrainingProgress
from jax_attn.runs.report import characters_evaluated, evaluate_split
from jax_attn.runs.run import Run
from jax_attn.torch_replay.script import TorchScript
from jax_attn.training.batches import Batches
from jax_attn.training.host_batches import HostBatches, random_batches
from jax_attn.training.nan_search import find_nan
from jax_attn.training.optim import learning_rate_schedule
from jax_attn.training.step import TrainState

Record = dict[str, Any]  # a line of metrics.jsonl


class _AskedToStop(Exception):
    """In the middle of an evaluation."""


class TrainingLoop:
    """A run's state, and what leads it to the last step.

    `step` steps are done. `healthy` becomes False at one whose loss or gradient is not finite,
    which is then not done.
    """

    def __init__(
        self,
        run: Run,
        corpus: Corpus,
        checkpoints: Checkpoints,
        shapes: TrainState,
        restored: TrainState | None,
        recorded: Record,
    ) -> None:
        """From `restored`, of which `recorded` is the record, or from the beginning.

        `shapes` are those of the run's state.
        """
        config = run.config
        self._run, self._corpus, self._checkpoints = run, corpus, checkpoints
        self._optimizer = run.optimizer()
        self._learning_rate = learning_rate_schedule(
            config.optimizer, config.learning_rate, config.steps
        )
        self.step = 0 if restored is None else int(restored.step)
        self.healthy = True
        here = recorded.get("step") == self.step
        self.validation_loss: float | None = recorded.get("val_loss") if here else None
        before = [] if restored is None else run.metrics.records()
        earlier = [record.get("val_loss", math.inf) for record in before]
        vocab_size = shapes.model().token_embedding_table.num_embeddings
        self.divergence = Divergence(config, vocab_size, earlier)
        # The record of a step whose evaluation was stopped: it is made before anything else.
        stopped = here and self._is_due(config.eval_every) and self.validation_loss is None
        self._unevaluated = dict(recorded) if stopped else None
        self._seconds_before = recorded.get("elapsed_s", 0.0)
        self.random_batches = random_batches(
            corpus.train,
            jax.random.fold_in(jax.random.key(config.seed), 1),
            config.batch_size,
            config.block_size,
        )
        self._per_character = characters_evaluated(corpus.validation, config, corpus.tokenizer)
        self._model = shapes.model()
        n_parameters, platform = count_parameters(self._model), jax.devices()[0].platform
        self._most_steps = most_steps(config, n_parameters, platform)
        self._room = longest_chunk(config, self._most_steps)
        self._batches: Batches = (
            self.random_batches.shapes(self._room)
            if isinstance(self.random_batches, HostBatches)
            else self.random_batches
        )
        self._program: Any = None
        self._ahead: CompiledAhead | None = None
        self.script: TorchScript | None = None
        if config.rng == "torch":
            self.script = TorchScript(config, corpus)
            initial = self.script.initialise(run.fresh_model())
            restored = restored or TrainState.create(initial, self._optimizer)
            self.script.skip(restored)
        elif self.step < config.steps:
            self._ahead = CompiledAhead(shapes, self._batches, self._optimizer, self._room, config)
        self.state = restored or run.fresh()
        checkpoints.prepare()

    def train(
        self,
        progress: TrainingProgress,
        begin: Callable[[], object],
        asked_to_stop: Callable[[], bool],
        on_record: Callable[[Record], object],
    ) -> None:
        """To the last step, to one that is not finite, or until asked; then all is saved.

        `begin` is called when all is compiled and the first step is made next.
        An evaluation that somebody asks to stop is made when the run goes on. `on_record` is called
        when a record is written; before what it raises the state is saved.
        """
        if self._unevaluated is not None:
            self._evaluate(self._unevaluated, progress, asked_to_stop)
            if self.validation_loss is not None:
                self._run.metrics.amend(self._unevaluated)
                self._save()
                self._announce(self._unevaluated, on_record)
        begun = time.perf_counter() - self._seconds_before
        while self.step < self._run.config.steps and self.healthy and not asked_to_stop():
            record = self._chunk(progress, begin)
            if record is None:
                break
            record["elapsed_s"] = time.perf_counter() - begun
            self.validation_loss = None
            if self._is_due(self._run.config.eval_every):
                self._evaluate(record, progress, asked_to_stop)
            self._run.metrics.append(record)
            if self._is_due(self._run.config.checkpoint_every):
                self._save()
            self._announce(record, on_record)
        self._save()
        self._checkpoints.close()

    def _announce(self, record: Record, on_record: Callable[[Record], object]) -> None:
        try:
            on_record(record)
        except BaseException:
            self._save()
            raise

    def _chunk(self, progress: TrainingProgress, begin: Callable[[], object]) -> Record | None:
        """Makes some steps; their record, or None where the first of them cannot be made."""
        config = self._run.config
        count = chunk_end(config, self._most_steps, self.step) - self.step
        if self.script is not None:
            self._follow(self.script, count, progress)
        elif isinstance(self.random_batches, HostBatches):
            self._gather(self.random_batches, count)
        if self._program is None:
            self._program, seconds = self._compiled()
            steps = "a step" if self._room == 1 else f"up to {self._room} steps"
            progress.say(f"compiled {steps} as one program in {seconds:.1f} s")
            begin()
        begun = time.perf_counter()
        self.state, losses = self._program(self.state, self._batches, np.int32(count))
        losses, self.healthy = np.asarray(losses), bool(self.state.healthy)
        seconds = time.perf_counter() - begun
        before, self.step = self.step, int(self.state.step)
        made = self.step - before
        if made == 0:
            return None
        record: Record = {
            "step": self.step,
            "train_loss": float(losses[:made].mean()),
            "learning_rate": float(np.asarray(self._learning_rate(self.step - 1))),
            "tokens_per_second": made * config.batch_size * config.block_size / seconds,
        }
        rate = record["tokens_per_second"]
        used = utilisation(self._model, rate, config.dtype)
        progress.update(self.step, record["train_loss"], rate, used)
        return record

    def _follow(self, script: TorchScript, count: int, progress: TrainingProgress) -> None:
        """Draws what the script draws before its next `count` steps."""
        if script.estimate_is_due(self.step):
            training, validation = script.estimate(self.state.model())
            progress.say(
                f"step {self.step:,}: train loss {training:.4f}, val loss {validation:.4f} "
                "(the lecture's estimate)"
            )
        self.state, batches = script.next_steps(self.state, self.step, count)
        self._batches = batches.with_room(self._room)

    def _gather(self, batches: HostBatches, count: int) -> None:
        """Takes the batches of the next `count` steps, and has those of the next chunk gathered."""
        self._batches = batches.given(self.step, count, self._room)
        after = self.step + count
        if after < self._run.config.steps:
            n_steps = chunk_end(self._run.config, self._most_steps, after) - after
            batches.prepare(after, n_steps, self._room)

    def _compiled(self) -> tuple[Any, float]:
        """The program of a chunk, and the seconds it took."""
        if self._ahead is not None:
            return self._ahead.training.result()
        return compile_training(
            self.state,
            self._batches,
            self._optimizer,
            self._room,
            self._run.config.accumulate_steps,
        )

    def _evaluate(
        self, record: Record, progress: TrainingProgress, asked_to_stop: Callable[[], bool]
    ) -> None:
        """Adds the loss over the validation split to a record, unless asked to stop."""

        def on_batch(done: int, of: int) -> None:
            if asked_to_stop():
                raise _AskedToStop
            progress.evaluating(done, of)

        model, split = self.state.model(), self._corpus.validation
        try:
            if asked_to_stop():  # before it is waited for the program
                return
            self.wait()
            loss = evaluate_split(model, split, self._run.config, on_batch)
        except _AskedToStop:
            return
        self.validation_loss = record["val_loss"] = loss
        per_character = self._per_character.loss(loss)
        if per_character is not None:
            record["val_loss_per_character"] = per_character
        progress.say(
            f"step {self.step:,}: batch loss {record['train_loss']:.4f}, "
            f"validation loss {loss:.4f}{self._per_character.words(loss)}"
        )
        if self.divergence.look(record["train_loss"], loss):
            progress.say(f"step {self.step:,}: {self.divergence.remark}")

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self._run.config.steps

    def _save(self) -> None:
        """The last good state, for whatever reason it is the last."""
        state = dataclasses.replace(self.state, healthy=jnp.array(True))
        if self.script is not None:
            state = self.script.without_masks(state)
        self._checkpoints.save(state, self.validation_loss)

    def wait(self) -> None:
        """Until evaluation and sampling will find the programs that are made for them."""
        if self._ahead is not None:
            self._ahead.wait()

    def find_nan(self) -> str:
        """Which operation of the next step is the first to give NaN, in words."""
        accumulate_steps = self._run.config.accumulate_steps
        return find_nan(self.state, self._batches, self._optimizer, accumulate_steps)

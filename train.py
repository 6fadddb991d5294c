"""Train one of the lecture's models on a text: `python train.py [PRESET] [--flag value ...]`.

Arguments, data, model, loop, checkpoint, sample: in that order.
"""

from __future__ import annotations

import gc

gc.disable()  # until all is imported: modules live on, and searching them takes half a second

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jax_attn import (
    Corpus,
    InputError,
    RandomBatches,
    TrainState,
    learning_rate_schedule,
    load_corpus,
)
from jax_attn.compiling.precision import describe_products, products
from jax_attn.compiling.program_cache import keep_programs
from jax_attn.data import cache_dir
from jax_attn.models.flops import utilisation
from jax_attn.models.gpt import GPT
from jax_attn.models.language_model import count_parameters
from jax_attn.nn.flash import accelerator
from jax_attn.runs.ahead import CompiledAhead, compile_training, steps_per_chunk
from jax_attn.runs.checkpoint import Checkpoints
from jax_attn.runs.command_line import NewRun, ResumedRun, parse_arguments
from jax_attn.runs.device_choices import choose_for_device, memory_in_use
from jax_attn.runs.painter import Painter
from jax_attn.runs.progress import TrainingProgress
from jax_attn.runs.report import attention_choice, describe, evaluate_split, finish
from jax_attn.runs.run import Run
from jax_attn.runs.stopping import StopOnSignal
from jax_attn.torch_replay.script import TorchScript
from jax_attn.training.nan_search import find_nan

gc.freeze()
gc.enable()


def train(arguments: NewRun | ResumedRun, console: Console) -> int:
    """Runs the training; returns the exit code."""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    with StopOnSignal() as stop:
        run, corpus = open_run(arguments, say)
        with run.locked():
            if isinstance(arguments, ResumedRun) and arguments.steps is not None:
                run = run.with_steps(arguments.steps)
            with (
                Painter() as painter,
                contextlib.closing(Checkpoints(run, say)) as checkpoints,
                products(run.config),
            ):
                return train_in(run, corpus, checkpoints, painter, arguments, console, stop, say)


def open_run(arguments: NewRun | ResumedRun, say: Callable[[str], None]) -> tuple[Run, Corpus]:
    """The folder to train in, a new one or the old one, and the text."""
    if isinstance(arguments, ResumedRun):
        run = Run.open(arguments.resume)
        corpus = load_corpus(run.config.data, warn=say)
        run.require_same_corpus(corpus)
    else:
        corpus = load_corpus(arguments.config.data, warn=say)
        config = dataclasses.replace(arguments.config, data=corpus.name)  # to resume with
        corpus.require_block(config.block_size)
        config, reasons = choose_for_device(config, accelerator(), memory_in_use())
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        path = arguments.out or Path("runs") / f"{arguments.preset}-{stamp}"
        run = Run.create(path, config, corpus)
        for reason in reasons:
            say(f"chosen   {reason}")

    return run, corpus


def train_in(
    run: Run,
    corpus: Corpus,
    checkpoints: Checkpoints,
    painter: Painter,
    arguments: NewRun | ResumedRun,
    console: Console,
    stop: StopOnSignal,
    say: Callable[[str], None],
) -> int:
    """Model, state, loop, and what remains, in a run's folder; returns the exit code."""
    config = run.config
    if isinstance(arguments, ResumedRun):
        if checkpoints.newest() is None:
            say("no checkpoint yet: the run begins at step 0")
        with run.writing():
            run.write(run.path)  # steps may be others now
    shapes, optimizer = run.shapes(), run.optimizer()
    model = shapes.model()
    state = checkpoints.restore(shapes) if isinstance(arguments, ResumedRun) else None
    first_step = 0 if state is None else int(state.step)
    recorded: dict[str, Any] = {}
    if isinstance(arguments, ResumedRun):
        recorded = run.cut_metrics(first_step)
        if recorded.get("step", 0) != first_step:
            say(f"metrics.jsonl has lost the figures before step {first_step:,}, or some")
    n_parameters = count_parameters(model)
    device = jax.devices()[0]
    say(f"model    {describe(model)}, {n_parameters:,} parameters")
    numbers = config.dtype
    if numbers == "float32":
        numbers += f", {describe_products(config, accelerator())}"
    say(f"device   {device.platform} ({device.device_kind}), jax {jax.__version__}, {numbers}")
    if isinstance(model, GPT):
        say(f"attention {attention_choice(model, config.dtype)}")
    say(
        f"corpus   {corpus.name}: {len(corpus.tokens):,} characters, "
        f"{corpus.tokenizer.vocab_size} symbols, sha256 {corpus.sha256[:12]}…"
    )
    say(f"run      {run.path}")
    if first_step >= config.steps:
        say(f"step {first_step:,} of {config.steps:,}: nothing left to train")

    batches = random_batches = RandomBatches(
        jnp.asarray(corpus.train),
        jax.random.fold_in(jax.random.key(config.seed), 1),
        config.batch_size,
        config.block_size,
    )
    chunk_steps = steps_per_chunk(config, n_parameters, first_step, device.platform)
    script, ahead, compiled_chunk = None, None, None
    if config.rng == "torch":
        script = TorchScript(config, corpus)
        initial = script.initialise(run.fresh_model())
        state = state or TrainState.create(initial, optimizer)
        script.skip(state)
    elif first_step < config.steps:
        ahead = CompiledAhead(shapes, batches, optimizer, chunk_steps, config)
    state = state or run.fresh()
    checkpoints.prepare()
    learning_rate = learning_rate_schedule(config.optimizer, config.learning_rate, config.steps)
    step, healthy = first_step, True
    validation_loss = recorded.get("val_loss") if recorded.get("step") == step else None

    # The loop.
    progress = TrainingProgress(console, first_step, config.steps)
    with progress:
        begun = time.perf_counter() - recorded.get("elapsed_s", 0.0)
        while step < config.steps and healthy and stop.signal is None:
            if script is not None:
                if script.estimate_is_due(step):
                    training, validation = script.estimate(state.model())
                    progress.say(
                        f"step {step:,}: train loss {training:.4f}, val loss {validation:.4f} "
                        "(the lecture's estimate)"
                    )
                state, batches = script.next_steps(state, step, chunk_steps)
            if compiled_chunk is None:
                if ahead is not None:
                    compiled_chunk, seconds = ahead.training.result()
                else:
                    compiled_chunk, seconds = compile_training(
                        state, batches, optimizer, chunk_steps, config.accumulate_steps
                    )
                progress.say(f"compiled {chunk_steps} steps as one program in {seconds:.1f} s")
            chunk_begun = time.perf_counter()
            state, losses = compiled_chunk(state, batches)
            losses, healthy = np.asarray(losses), bool(state.healthy)
            seconds = time.perf_counter() - chunk_begun
            done, step = step, int(state.step)
            if step == done:
                break
            record: dict[str, Any] = {
                "step": step,
                "train_loss": float(losses[: step - done].mean()),
                "learning_rate": float(np.asarray(learning_rate(step - 1))),
                "tokens_per_second": (step - done)
                * config.batch_size
                * config.block_size
                / seconds,
                "elapsed_s": time.perf_counter() - begun,
            }
            validation_loss = None
            progress.update(
                step,
                record["train_loss"],
                record["tokens_per_second"],
                utilisation(model, record["tokens_per_second"], config.dtype),
            )
            if step % config.eval_every == 0 or step == config.steps:
                if ahead is not None:
                    ahead.wait()
                validation_loss = evaluate_split(state.model(), corpus.validation, config)
                record["val_loss"] = validation_loss
                progress.say(
                    f"step {step:,}: training loss {record['train_loss']:.4f}, "
                    f"validation loss {validation_loss:.4f}"
                )
            run.append_metrics(record)
            if step % config.checkpoint_every == 0 or step == config.steps:
                checkpoints.save(to_keep(state, script), validation_loss)

    checkpoints.save(to_keep(state, script), validation_loss)
    checkpoints.close()
    stop.listen_no_more()

    if not healthy:
        say(
            f"stopped: the loss or a gradient at step {step + 1:,} is not finite. "
            f"The state before it is kept in {run.checkpoints_path / str(step)}; "
            "try a smaller --learning-rate or --optimizer.clip-norm 1"
        )
        if arguments.debug_nans:
            say(
                f"step {step + 1:,}: {find_nan(state, batches, optimizer, config.accumulate_steps)}"
            )
        else:
            say(f"which operation it is: python train.py --resume {run.path} --debug-nans")
        return 1
    if stop.signal is not None:
        say(f"stopped at step {step:,}; go on with: python train.py --resume {run.path}")
        return 128 + stop.signal
    if ahead is not None:
        ahead.wait()
    with run.writing():
        finish(
            run,
            state,
            corpus,
            random_batches,
            script,
            painter,
            say,
            validation_loss,
        )
    return 0


def to_keep(state: TrainState, script: TorchScript | None) -> TrainState:
    """What a checkpoint holds: the last good state, for whatever reason it is the last."""
    state = dataclasses.replace(state, healthy=jnp.array(True))
    return state if script is None else script.without_masks(state)


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

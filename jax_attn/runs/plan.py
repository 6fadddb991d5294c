"""What a training run costs on an accelerator, from its programs compiled for that."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from jax_attn.compiling.compile import accelerator_of, compiling, devices, place
from jax_attn.compiling.hlo import Program
from jax_attn.compiling.memory import Memory, about_the_largest, largest_that_fits, out_of_memory
from jax_attn.compiling.precision import describe_products, products
from jax_attn.compiling.roofline import Bound, Rates, kernels, step_of
from jax_attn.compiling.targets import Target
from jax_attn.config import TrainConfig
from jax_attn.data.mapped import is_mapped
from jax_attn.errors import InputError
from jax_attn.models.flops import flops_per_token
from jax_attn.models.gpt import GPT
from jax_attn.models.language_model import count_parameters
from jax_attn.runs.ahead import compile_training
from jax_attn.runs.build_model import build_model
from jax_attn.runs.chunks import longest_chunk, most_steps
from jax_attn.runs.device_choices import choose_for_device
from jax_attn.runs.report import (
    attention_choice,
    compile_sampling,
    compile_split_evaluation,
    describe,
)
from jax_attn.training.batches import Batches, RandomBatches, given_shapes
from jax_attn.training.optim import make_optimizer
from jax_attn.training.step import TrainState


@dataclass(frozen=True)
class ProgramPlan:
    """One program of a run, compiled, or why it is not."""

    name: str
    unit: str  # what `bound` is of
    seconds: float  # that compiling took
    error: str | None = None
    too_large: bool = False  # the error is want of memory
    needs: int | None = None  # bytes on the device, the run's other arrays among them
    temporaries: int | None = None  # bytes of these
    bound: Bound | None = None


@dataclass(frozen=True)
class Plan:
    """A run on one accelerator. Sizes are in bytes."""

    target: str
    config: dict[str, Any]
    jax: str
    model: str
    numbers: str  # what products are taken in
    attention: str | None  # how, and why; None where there is none to choose
    parameters: int
    parameter_bytes: int
    optimizer_bytes: int
    text_bytes: int  # of its tokens, where they are on the device
    usable_memory: int
    programs: tuple[ProgramPlan, ...]  # training, evaluation, sampling
    largest_batch: int | None  # rows a step whose programs fit, in as many micro-batches
    largest_batch_needs: int | None
    tokens_per_step: int
    least_step_seconds: float | None
    least_step_mfu: float | None

    @property
    def compiles(self) -> bool:
        return all(program.error is None for program in self.programs)

    @property
    def fits(self) -> bool:
        return all(p.needs is not None and p.needs <= self.usable_memory for p in self.programs)


def plan(
    config: TrainConfig,
    target: Target,
    tokens: np.ndarray,
    vocab_size: int,
    *,
    say: Callable[[str], None],
    keep: Callable[[str, str], None],
) -> Plan:
    """Compiles a run's three programs, and those that show the largest batch; runs nothing.

    `say` gets a line after each, `keep` a program's name and its text. Raises InputError where the
    compiler is not installed, and for a run that draws as torch does.
    """
    config, reasons = choose_for_device(config, accelerator_of(target), target.usable_memory)
    if config.rng == "torch":
        raise InputError("--rng torch draws on the CPU between steps; --plan is of --rng jax")
    devices(target)  # before anything else, that a missing compiler is said at once
    for reason in reasons:
        say(f"chosen   {reason}")
    say(f"compiling for {target.name}, a line after each program; a GPT's take minutes in all")
    run = RunPrograms(config, target, tokens, vocab_size)
    rates = Rates.of(target)
    state = run.state
    beside = _bytes(state) - _bytes((state.params, state.rest))
    text_bytes = 0 if is_mapped(tokens) else tokens.nbytes
    beside += text_bytes

    model = state.model()
    compiled = partial(_compiled, rates=rates, say=say, keep=keep)
    training = compiled("training", "step", lambda: run.training(config))
    with compiling(target):
        attention = attention_choice(model, config.dtype) if isinstance(model, GPT) else None
    programs = (
        training,
        compiled("evaluation", "batch", run.evaluation, beside=beside),
        compiled("sampling", "token", run.sampling, beside=beside),
    )
    largest = None
    if training.error is None or training.too_large:
        largest = run.largest_batch(training.needs, say)
    tokens_per_step = config.batch_size * config.block_size
    least = mfu = None
    if training.bound is not None:
        least = training.bound.seconds + training.bound.attention_seconds
        if isinstance(model, GPT):  # the others are tables, and little else
            highest = config.dtype == "float32" and config.product_precision == "highest"
            peak = rates.products["highest" if highest else config.dtype]
            mfu = flops_per_token(model) * tokens_per_step / (least * peak)
    return Plan(
        target=target.name,
        config=config.to_dict(),
        jax=jax.__version__,
        model=describe(model),
        numbers=config.dtype
        if config.dtype != "float32"
        else f"float32, {describe_products(config, accelerator_of(target))}",
        attention=attention,
        parameters=count_parameters(model),
        parameter_bytes=_bytes(state.params),
        optimizer_bytes=_bytes(state.opt_state),
        text_bytes=text_bytes,
        usable_memory=target.usable_memory,
        programs=programs,
        largest_batch=largest and largest[0],
        largest_batch_needs=largest and largest[1],
        tokens_per_step=tokens_per_step,
        least_step_seconds=least,
        least_step_mfu=mfu,
    )


def _compiled(
    name: str,
    unit: str,
    compile_it: Callable[[], Any],
    *,
    beside: int = 0,
    rates: Rates,
    say: Callable[[str], None],
    keep: Callable[[str, str], None],
) -> ProgramPlan:
    """What `compile_it` gives, one program or several of which the last counts.

    `beside` are bytes of arrays on the device that are none of its arguments.
    """
    begun = time.perf_counter()
    try:
        programs = jax.tree.leaves(compile_it())
    except Exception as error:  # whatever it is, it is what the run would die of
        seconds = time.perf_counter() - begun
        line = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        say(f"{name}: does not compile: {line}")
        return ProgramPlan(name, unit, seconds, line, too_large=out_of_memory(error))
    seconds = time.perf_counter() - begun
    say(f"{name}: compiled in {seconds:.1f} s")
    text = programs[-1].as_text()
    keep(name, text)
    program = Program.parse(text)
    memories = [Memory.of(program) for program in programs]
    return ProgramPlan(
        name,
        unit,
        seconds,
        needs=max(memory.total for memory in memories) + beside,
        temporaries=max(memory.temporaries for memory in memories),
        bound=Bound.of(kernels(program, step_of(program)), rates),
    )


class RunPrograms:
    """A run's programs, compiled for one target from the shapes of its state."""

    def __init__(
        self, config: TrainConfig, target: Target, tokens: np.ndarray, vocab_size: int
    ) -> None:
        self.config = config
        self._target = target
        self._optimizer = make_optimizer(config.optimizer, config.learning_rate, config.steps)
        self._mapped = is_mapped(tokens)
        with self._compiling():
            shapes = jax.eval_shape(
                lambda: TrainState.create(build_model(config, vocab_size), self._optimizer)
            )
            key = jax.eval_shape(lambda: jax.random.key(0))
            self.state = place(target, shapes)
            self._tokens, self._key = place(target, (tokens, key))

    @contextlib.contextmanager
    def _compiling(self) -> Iterator[None]:
        with compiling(self._target), products(self.config):
            yield

    def training(self, config: TrainConfig) -> Any:
        """Of a configuration that may have another batch size."""
        n_parameters = count_parameters(self.state.model())
        n_steps = longest_chunk(config, most_steps(config, n_parameters, self._target.platform))
        batches: Batches = RandomBatches(
            self._tokens, self._key, config.batch_size, config.block_size
        )
        if self._mapped:
            shapes = given_shapes(n_steps, config.batch_size, config.block_size, self._tokens.dtype)
            batches = place(self._target, shapes)
        with self._compiling():
            compiled, _ = compile_training(
                self.state, batches, self._optimizer, n_steps, config.accumulate_steps
            )
        return compiled

    def evaluation(self) -> Any:
        with self._compiling():
            return compile_split_evaluation(self.state.model(), self.config)

    def sampling(self) -> Any:
        with self._compiling():
            return compile_sampling(self.state.model(), self.config)

    def largest_batch(
        self, planned_needs: int | None, say: Callable[[str], None]
    ) -> tuple[int, int] | None:
        """The rows a step that fit, in as many micro-batches as the run has, and their bytes.

        On a GPU such a program is compiled; for a TPU they are drawn from two smaller ones: near
        the limit its compiler looks for what to compute again, for twenty minutes and more.
        """
        parts = self.config.accumulate_steps

        def need(rows: int) -> int | None:
            begun = time.perf_counter()
            try:
                compiled = self.training(replace(self.config, batch_size=parts * rows))
                found = Memory.of(compiled).total
            except jax.errors.JaxRuntimeError as error:
                if not out_of_memory(error):
                    raise
                found = None
            takes = "does not fit" if found is None else f"takes {found / 1e9:.3g} GB"
            seconds = time.perf_counter() - begun
            say(f"training with {parts * rows:,} rows a step: {takes}; compiled in {seconds:.1f} s")
            return found

        rows = self.config.batch_size // parts
        room = self._target.usable_memory
        if self._target.platform == "tpu" and planned_needs is not None and planned_needs <= room:
            found = about_the_largest(need, rows, planned_needs, room)
        else:
            found = largest_that_fits(need, rows, planned_needs, room)
        return found and (parts * found[0], found[1])


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

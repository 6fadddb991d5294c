"""`python train.py PRESET --plan TARGET`: the plan on the console, and in a folder if asked."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import jax
from rich.table import Table

from jax_attn.compiling.memory import MOST_TIMES
from jax_attn.compiling.targets import TARGETS, Target
from jax_attn.config import TargetName
from jax_attn.console import VerbatimConsole
from jax_attn.errors import InputError
from jax_attn.json_files import write_json
from jax_attn.runs.command_line import NewRun
from jax_attn.runs.plan import Plan, plan
from jax_attn.runs.run_text import corpus_of
from jax_attn.runs.start import Init, start_from

TO_START = 1e-6  # seconds, about what starting a kernel takes on any of them, at the least
OF_ONE = ("kernels", "products", "bytes moved", "at least")


def plan_run(arguments: NewRun, name: TargetName, console: VerbatimConsole) -> int:
    """Prints the plan; the exit code, 1 where a program does not compile."""

    say = console.print
    jax.config.update("jax_platforms", "cpu")  # a device that is there is left alone
    _hear_errors_only()
    target, out = TARGETS[name], arguments.out
    if out is not None and (out / "plan.json").exists():
        raise InputError(f"{out} holds a plan already; give another --out")
    config = arguments.config
    if arguments.init is None:
        corpus = corpus_of(config, say, fetch=False)
    else:
        start = start_from(Init(arguments.init, arguments.init_vocabulary, arguments.given), config)
        config, corpus = start.config, start.corpus(say, fetch=False)
    corpus.require_block(config.block_size)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{out}: cannot be made ({error.strerror})") from error

    def keep(program: str, text: str) -> None:
        if out is not None:
            (out / f"{program}.hlo").write_text(text, encoding="utf-8")

    with console.status(f"compiling for {name}") if console.live else contextlib.nullcontext():
        found = plan(
            config,
            target,
            corpus.train,
            corpus.tokenizer.vocab_size,
            say=say,
            keep=keep,
        )
    for line in heading(arguments.preset, found, target):
        say(line)
    console.print(table(found))
    for line in summary(found, target):
        say(line)
    if out is not None:
        write_json(out / "plan.json", {"preset": arguments.preset} | dataclasses.asdict(found))
        say(f"in {out}: plan.json, and the programs' texts")
    return 0 if found.compiles else 1


def heading(preset: str, found: Plan, target: Target) -> Iterator[str]:
    config = found.config
    yield ""
    yield (
        f"plan       {preset} on one {target.name} ({target.device_kind}), "
        f"jax {found.jax}; compiled, not run"
    )
    yield f"model      {found.model}, {found.parameters:,} parameters, {found.numbers}"
    if found.attention:
        yield f"attention  {found.attention}"
    parts = config["accumulate_steps"]
    several = "" if parts == 1 else f", in {parts} micro-batches"
    yield f"step       {config['batch_size']} × {config['block_size']:,} tokens{several}"


def table(found: Plan) -> Table:
    """A row for each program."""
    shown = Table(box=None, padding=(0, 1, 0, 0))  # 80 columns
    for column in ("program", "compiled in", "memory", "of one", *OF_ONE):
        shown.add_column(column, justify="left" if column in ("program", "of one") else "right")
    for program in found.programs:
        cells = [program.name, f"{program.seconds:.1f} s", _size(program.needs), program.unit]
        bound = program.bound
        if bound is None:
            cells += ["", "", "", "does not compile"]
        else:
            flops = bound.flops + bound.attention_flops
            cells += [f"{bound.kernels:,}", scaled(flops, "FLOP"), scaled(bound.bytes, "B")]
            cells.append(duration(bound.seconds + bound.attention_seconds))
        shown.add_row(*cells)
    return shown


def summary(found: Plan, target: Target) -> Iterator[str]:
    for program in found.programs:
        if program.error:
            yield f"error      {program.name}: {program.error}"
    yield f"memory     {_parts(found)}"
    needs = [p.needs for p in found.programs if p.needs is not None]
    share = "" if not target.chip else f" (what JAX takes of {_size(target.memory)} by default)"
    room = f"{_size(found.usable_memory)}{share}"
    if needs:
        word = "fits" if found.fits else "too large"
        yield f"{word:9}  {_size(max(needs))} of {room}"
    if found.largest_batch is not None:
        tried_no_more = found.largest_batch == MOST_TIMES * found.config["batch_size"]
        word = "at least" if tried_no_more else "at most"
        yield (
            f"{word:9}  {found.largest_batch:,} rows a step, which take "
            f"{_size(found.largest_batch_needs)}"
        )
    bound = found.programs[0].bound
    if bound is not None and found.least_step_seconds is not None:
        rate = found.tokens_per_step / found.least_step_seconds
        each = found.least_step_seconds / bound.kernels
        if each < TO_START:
            reached = (
                f", which no run comes near: {bound.kernels:,} kernels of {duration(each)} in the "
                "mean take longer to be started than to run"
            )
        else:
            mfu = "" if found.least_step_mfu is None else f", MFU {found.least_step_mfu:.1%}"
            reached = f"{mfu} (every kernel at the data sheet's rates)"
        yield (
            f"at best    {duration(found.least_step_seconds)} a step, at most {rate:,.0f} "
            f"tokens/s{reached}"
        )


def _parts(found: Plan) -> str:
    """What training needs, in parts that add up."""
    training = found.programs[0]
    parts = {
        "parameters": found.parameter_bytes,
        "optimizer": found.optimizer_bytes,
        "text": found.text_bytes,
        "temporaries": training.temporaries or 0,
    }
    total = "" if training.needs is None else f"of training {_size(training.needs)}: "
    parts["code and padding"] = (training.needs or 0) - sum(parts.values())
    return total + ", ".join(f"{name} {_size(n)}" for name, n in parts.items() if n > 0)


def _hear_errors_only() -> None:
    """Of XLA. Its warnings are of a sort that it would choose on the device by what it measured."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "1":  # JAX's own, nobody's wish
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"


def _size(n_bytes: int | None) -> str:
    return "unknown" if n_bytes is None else scaled(n_bytes, "B")


def scaled(value: float, unit: str) -> str:
    """Three digits, and a prefix: 159 GB."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """In milliseconds, microseconds or nanoseconds."""
    if seconds < 1e-7:
        return f"{1e9 * seconds:.3g} ns"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-4 else f"{1e6 * seconds:.3g} µs"

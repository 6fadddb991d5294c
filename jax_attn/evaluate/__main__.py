"""`python -m jax_attn.evaluate SOURCE --data FILE`: the loss of a trained model on a text."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    # There is nothing to save: Ctrl-C ends it at once, whatever is being imported or compiled.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Integer

from jax_attn.compiling.backend import require_device
from jax_attn.compiling.precision import products
from jax_attn.compiling.program_cache import keep_programs
from jax_attn.config import Paths
from jax_attn.console import command
from jax_attn.data import UNITS, Tokenizer, UnknownCharacters, cache_dir, load_corpus
from jax_attn.data.documents import in_words
from jax_attn.domains import COUNT, SIZE, SMALLEST_FLOAT32
from jax_attn.errors import InputError
from jax_attn.evaluate.batch_progress import BatchProgress
from jax_attn.evaluate.figures import Figures
from jax_attn.evaluate.skipping_tokenizer import SkippingTokenizer
from jax_attn.models.bigram import BigramLanguageModel
from jax_attn.runs.report import EVALUATION_TOKENS
from jax_attn.runs.source import Source, Untold, open_source
from jax_attn.runs.tyro_or_exit import read_arguments, tyro
from jax_attn.training.evaluation import evaluate

Split = Literal["all", "train", "validation"]
# Of a text's characters to validate with, where all are to be in one part: too few to be one.
NOTHING = SMALLEST_FLOAT32


@dataclass(frozen=True)
class Arguments:
    """Take the mean loss of a trained model over a text.

    The text is cut into windows of --block-size tokens, end to end, and each token is predicted
    from those before it in its window: the number that train.py prints.
    """

    # run that train.py made, RUN@best, RUN/checkpoints/STEP, a file of weights, a folder of
    # Hugging Face's or nanoGPT's
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    # tinyshakespeare, python-docs, or paths of files, also .gz, or folders; else a run's own text
    data: Paths | None = None
    split: Split = "all"  # which part of the text, split as a run's is: else the last tenth
    encoding: str | None = None  # of the files: utf-16, cp1252, … as Python names them; else UTF-8
    block_size: int | None = None  # tokens a window; else those the model was trained with
    batch_size: int | None = None  # windows at once; else 4096 tokens
    eval_tokens: int = 0  # the first so many tokens of the part only; 0 = all
    unknown: Literal["error", "skip"] = "error"  # what to do with characters unknown to the model
    json: bool = False  # print one JSON object
    untold: Annotated[Untold, tyro.conf.arg(name="")] = field(default_factory=Untold)


@dataclass(frozen=True)
class Text:
    """What the loss is taken over."""

    name: str
    sha256: str  # of the whole text
    tokens: Integer[np.ndarray, " N"]
    of: int  # tokens that the part has in all


def text_of(source: Source, tokenizer: Tokenizer, arguments: Arguments) -> Text:
    """InputError for what cannot be read, is unknown to the model, or leaves nothing to predict."""
    run, data, validation = source.config, arguments.data, None
    encoding = arguments.encoding or "utf-8"
    if data is None:
        if run is None:
            raise InputError(f"{source.name} is no run, which has a text of its own: give --data")
        data, validation = run.data, run.validation
        encoding = arguments.encoding or run.encoding
    fraction = 0.1 if run is None else run.validation_fraction
    whole = arguments.split == "all"
    corpus = load_corpus(
        data,
        _warn,
        encoding=encoding,
        validation=None if whole else validation,
        validation_fraction=NOTHING if whole else fraction,
        tokenizer=tokenizer,
    )
    known = source.corpus or {}
    tokens = corpus.validation if arguments.split == "validation" else corpus.train
    if arguments.split == "validation" and corpus.validation_name is not None:  # its own text
        name, sha256 = in_words(corpus.validation_name), str(corpus.validation_sha256)
        was = known.get("validation_sha256")
    else:
        name, sha256, was = in_words(corpus.name), corpus.sha256, known.get("sha256")
    if arguments.data is None and sha256 != was:
        _warn(f"{name} is not what it was when {source.name} was trained on it")
    if len(tokens) < 2:
        raise InputError(
            f"{name}: {len(tokens)} tokens hold nothing to predict; give a text of at least 2"
        )
    n = COUNT.check("--eval-tokens", arguments.eval_tokens) or len(tokens)
    return Text(name, sha256, tokens[: n + 1], len(tokens))


def sizes_of(source: Source, arguments: Arguments) -> dict[str, int]:
    """Of the windows and batches: unless told otherwise, those of a run's own evaluation."""
    model, run = source.model, source.config
    most = None if isinstance(model, BigramLanguageModel) else model.block_size
    block_size = arguments.block_size or (model.block_size if run is None else run.block_size)
    if arguments.block_size is not None:
        SIZE.check("--block-size", arguments.block_size)
        if most is not None and block_size > most:
            raise InputError(f"--block-size is {block_size}; the model looks back on {most} tokens")
    batch_size = max(1, EVALUATION_TOKENS // block_size)
    if arguments.batch_size is not None:
        batch_size = SIZE.check("--batch-size", arguments.batch_size)
    return {"block_size": block_size, "batch_size": batch_size}


def lines(figures: Figures, tokenizer: Tokenizer, what: str) -> Iterator[str]:
    unit = tokenizer.unit
    per_character = ""
    if unit != "character" and figures.nats_per_character is not None:
        per_character = f", {figures.nats_per_character:.4f} per character"
    yield f"loss        {figures.nats_per_token:.4f} nats per {unit}{per_character}"
    yield f"perplexity  {figures.perplexity:,.4g} per {unit}"
    if figures.bits_per_byte is not None:
        yield f"bits        {figures.bits_per_byte:.4f} per byte of UTF-8"
    counts = f"{figures.tokens:,} {UNITS[unit]}"
    if unit != "character":
        counts += f", {figures.characters:,} characters"
    yield f"over        {counts}, {figures.bytes:,} bytes{what}"


def as_json(figures: Figures, **about: Any) -> str:
    perplexity = figures.perplexity if math.isfinite(figures.perplexity) else None
    derived = {
        "nats_per_character": figures.nats_per_character,
        "perplexity": perplexity,
        "bits_per_byte": figures.bits_per_byte,
    }
    return json.dumps(dataclasses.asdict(figures) | derived | about)


def run(arguments: Arguments) -> Iterator[str]:
    """The lines to print."""
    source = open_source(arguments.source, **arguments.untold.given())
    tokenizer = source.require_tokenizer()
    sizes = sizes_of(source, arguments)
    reads = SkippingTokenizer(tokenizer) if arguments.unknown == "skip" else tokenizer
    try:
        text = text_of(source, reads, arguments)
    except UnknownCharacters as error:
        raise InputError(f"{error}; --unknown skip leaves them out") from error
    if isinstance(reads, SkippingTokenizer) and reads.skipped:
        names = ", ".join(f"{c!r} {n:,} times" for c, n in sorted(reads.skipped.items())[:5])
        _warn(f"left out {sum(reads.skipped.values()):,} characters unknown to the model: {names}")
    with products(source.config), BatchProgress() as progress:
        loss = evaluate(source.model, text.tokens, **sizes, on_batch=progress.update)
    if not math.isfinite(loss):
        raise InputError(f"the loss is {loss}: look for weights that are not finite")
    figures = Figures.of(loss, tokenizer, text.tokens)
    if arguments.json:
        about = {"source": source.name, "data": text.name, "sha256": text.sha256}
        yield as_json(figures, **about, split=arguments.split, **sizes)
        return
    part = "" if arguments.split == "all" else f", {arguments.split} split"
    first = "" if len(text.tokens) == text.of else f", the first of {text.of:,}"
    windows = f", in windows of {sizes['block_size']}"
    yield from lines(figures, tokenizer, f" of {text.name}{part}{first}{windows}")


def _warn(line: str) -> None:
    print(f"jax_attn.evaluate: {line}", file=sys.stderr)


def evaluate_command() -> int:
    arguments = read_arguments(Arguments, "jax_attn.evaluate")
    require_device()
    keep_programs(cache_dir() / "programs")
    for line in run(arguments):
        print(line)
    return 0


def main() -> int:
    return command("jax_attn.evaluate", evaluate_command)


if __name__ == "__main__":
    sys.exit(main())

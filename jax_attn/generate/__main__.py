"""`python -m jax_attn.generate SOURCE`: sample from a trained model."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    # There is nothing to save: Ctrl-C ends it at once, whatever is being imported or compiled.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
from jaxtyping import Integer
from numpy.typing import NDArray

from jax_attn.compiling.backend import require_device
from jax_attn.compiling.precision import products
from jax_attn.compiling.program_cache import keep_programs
from jax_attn.console import command
from jax_attn.data import Tokenizer, cache_dir
from jax_attn.domains import SEED, SIZE
from jax_attn.errors import InputError
from jax_attn.generate import stream
from jax_attn.generate.continuation import Continuation, without_prompt
from jax_attn.generate.known_ids import known_ids
from jax_attn.generate.prompts import encode_prompt, read_prompt
from jax_attn.room import require_room
from jax_attn.runs.source import Source, Untold, open_source
from jax_attn.runs.tyro_or_exit import read_arguments, tyro

CHUNK = 16  # tokens between two prints
SAMPLE_BYTES = 4096  # that a sample takes at least, whatever the model
WIDTH = 72  # of the lines between samples


@dataclass(frozen=True)
class Arguments:
    """Continue a prompt with a trained model, and print the text.

    A token is a character, unless the model was made for others. A sample ends after --tokens
    new ones, before a --stop text, or where the model says that the text ends.
    """

    # run that train.py made, RUN@best, RUN/checkpoints/STEP, a file of weights, a folder of
    # Hugging Face's or nanoGPT's
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    # text to begin with, else a newline where the model knows it; may be given several times: all
    # prompts go on at once
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    # file with the text to begin with, - for standard input; a line end at its end is left out
    prompt_file: Path | None = None
    tokens: int = 500  # new tokens, at most
    temperature: float = 1.0  # below 1 safer, above 1 wilder, 0 always the likeliest token
    top_k: int | None = None  # choose among so many likeliest tokens only
    # then among the fewest likeliest of them that have this probability together
    top_p: float | None = None
    # end before this text, which is not printed; may be given several times
    stop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    num_samples: int = 1  # texts of each prompt, made at once, each from a seed of its own
    seed: int = 0  # the same seed gives the same text; sample 2 is that of the seed after it
    unknown: Literal["error", "skip"] = "error"  # what to do with characters unknown to the model
    untold: Annotated[Untold, tyro.conf.arg(name="")] = field(default_factory=Untold)


@dataclass(frozen=True)
class Sample:
    """One row of the batch."""

    title: str
    prompt: NDArray[np.integer]
    seed: int
    text: Continuation


def run(source: Source, arguments: Arguments) -> Iterator[str]:
    """What is printed: of one sample in pieces as they are made, of several one after another."""
    SIZE.check("--tokens", arguments.tokens)
    n = SIZE.check("--num-samples", arguments.num_samples) * max(1, len(arguments.prompt))
    require_room(n * SAMPLE_BYTES, f"{n:,} samples at once")
    tokenizer = source.require_tokenizer()
    samples = list(_samples(tokenizer, arguments))
    longest = max(len(sample.prompt) for sample in samples)
    tokens = np.zeros((len(samples), longest), np.int32)
    for row, sample in zip(tokens, samples, strict=True):
        row[: len(sample.prompt)] = sample.prompt
    keys = jax.vmap(jax.random.key)(np.array([sample.seed for sample in samples], np.uint32))
    alone = len(samples) == 1
    chunks = stream(
        source.model,
        jax.device_put(tokens),
        arguments.tokens,
        CHUNK,
        key=keys[0] if alone else keys,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        lengths=None if alone else np.array([len(sample.prompt) for sample in samples]),
        allowed=known_ids(tokenizer, source.model),
    )
    if alone:
        (sample,) = samples
        yield sample.text.prompt
        for made in chunks:
            yield sample.text.add(made[0])
            if sample.text.ended:
                break
        yield sample.text.rest() + "\n"
    else:
        yield from _one_after_another(samples, chunks)
    made = np.concatenate([tokens for sample in samples for tokens in sample.text.tokens])
    unknown = tokenizer.about_unknown(made)
    if unknown:
        _warn(unknown)


def _samples(tokenizer: Tokenizer, arguments: Arguments) -> Iterator[Sample]:
    """Every prompt with every seed."""
    if "" in arguments.stop:
        raise InputError("--stop is empty; give at least one character")
    n, prompts = arguments.num_samples, list(arguments.prompt)
    first = SEED.check("--seed", arguments.seed)
    SEED.check("the last sample's seed", first + n - 1)
    if arguments.prompt_file is not None:
        if prompts:
            raise InputError("--prompt and --prompt-file are both given; give one of them")
        prompts = [read_prompt(arguments.prompt_file)]
    skip = arguments.unknown == "skip"
    encoded = [encode_prompt(prompt, tokenizer, skip, _warn) for prompt in prompts]
    for number, prompt in enumerate(encoded or [np.array([tokenizer.start])], start=1):
        for seed in range(first, first + n):
            title = [f"prompt {number} of {len(prompts)}"] if len(prompts) > 1 else []
            title += [f"sample {seed - first + 1} of {n}, seed {seed}"] if n > 1 else []
            begin = Continuation if encoded else without_prompt
            text = begin(tokenizer, prompt, arguments.stop)
            yield Sample(", ".join(title), prompt, seed, text)


def _one_after_another(
    samples: list[Sample], chunks: Iterator[Integer[np.ndarray, "B n"]]
) -> Iterator[str]:
    texts = [sample.text.prompt for sample in samples]
    for made in chunks:
        for row, sample in enumerate(samples):
            if not sample.text.ended:
                texts[row] += sample.text.add(made[row])
        if all(sample.text.ended for sample in samples):
            break
    for sample, text in zip(samples, texts, strict=True):
        yield f"{f'--- {sample.title} ':-<{WIDTH}}\n{text}{sample.text.rest()}\n"


def _warn(line: str) -> None:
    print(f"jax_attn.generate: {line}", file=sys.stderr)


def generate() -> int:
    arguments = read_arguments(Arguments, "jax_attn.generate")
    require_device()
    keep_programs(cache_dir() / "programs")
    source = open_source(arguments.source, **arguments.untold.given())
    with products(source.config):
        for piece in run(source, arguments):
            print(piece, end="", flush=True)
    return 0


def main() -> int:
    return command("jax_attn.generate", generate)


if __name__ == "__main__":
    sys.exit(main())

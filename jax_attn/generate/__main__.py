"""`python -m jax_attn.generate SOURCE`: sample from a trained run."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np

from jax_attn.compiling.backend import require_device
from jax_attn.compiling.precision import products
from jax_attn.compiling.program_cache import keep_programs
from jax_attn.console import command
from jax_attn.data import cache_dir
from jax_attn.domains import SEED, SIZE
from jax_attn.errors import InputError
from jax_attn.generate import stream
from jax_attn.runs.source import Source, open_source
from jax_attn.runs.tyro_or_exit import NUMBERS, tyro

CHUNK = 16  # tokens between two prints


@dataclass(frozen=True)
class Arguments:
    """Continue a prompt with a trained model, and print the text."""

    source: Annotated[Path, tyro.conf.Positional]  # run that train.py made, or a checkpoint in it
    prompt: str | None = None  # text to begin with; else the text's first symbol in order of code
    tokens: int = 500  # characters to add
    temperature: float = 1.0  # below 1 safer, above 1 wilder, 0 always the likeliest character
    top_k: int | None = None  # choose among so many likeliest characters only
    seed: int = 0  # the same seed gives the same text


def run(source: Source, arguments: Arguments) -> Iterator[str]:
    """The prompt, then its continuation in pieces as they are made."""
    tokenizer = source.tokenizer
    assert tokenizer is not None, "a run has one"
    # Symbol 0, with which a run's own sample begins, too: a newline in most texts.
    begin = tokenizer.decode([0]) if arguments.prompt is None else arguments.prompt
    if not begin:
        raise InputError("the prompt is empty; give at least one character")
    SIZE.check("--tokens", arguments.tokens)
    SEED.check("--seed", arguments.seed)
    prompt = jax.device_put(np.asarray(tokenizer.encode(begin), np.int32)[None])
    chunks = stream(
        source.model,
        prompt,
        arguments.tokens,
        CHUNK,
        key=jax.random.key(arguments.seed),
        temperature=arguments.temperature,
        top_k=arguments.top_k,
    )
    yield begin
    made = []
    for tokens in chunks:
        made.append(tokens[0])
        yield tokenizer.decode(tokens[0], errors="replace")
    unknown = tokenizer.about_unknown(np.concatenate(made))
    if unknown:
        print(f"\njax_attn.generate: {unknown}", file=sys.stderr)


def generate() -> int:
    arguments = tyro.cli(Arguments, prog="python -m jax_attn.generate", registry=NUMBERS)
    require_device()
    keep_programs(cache_dir() / "programs")
    source = open_source(arguments.source)
    with products(source.config):
        for piece in run(source, arguments):
            print(piece, end="", flush=True)
    print()
    return 0


def main() -> int:
    return command("jax_attn.generate", generate)


if __name__ == "__main__":
    sys.exit(main())

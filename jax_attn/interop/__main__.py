"""`python -m jax_attn.interop SOURCE --to FORMAT --out PATH`: a model as a file of others."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from jax_attn.compiling.backend import require_device
from jax_attn.console import command
from jax_attn.interop.export import EXPORTS
from jax_attn.runs.export_run import export_run
from jax_attn.runs.source import Untold, open_source
from jax_attn.runs.tyro_or_exit import read_arguments, tyro


@dataclass(frozen=True)
class Arguments:
    """Write a model for the lecture's, nanoGPT's or Hugging Face's classes, or as a run.

    lecture: a file for the lecture's class, of torch.save or, by its suffix, .safetensors.
    nanogpt: a folder for nanoGPT's sample.py; a file for minGPT, whose output matrix is not tied.
    gpt2: a folder for GPT2LMHeadModel.from_pretrained. run: a run to sample from and train.
    """

    # run that train.py made, RUN@best, RUN/checkpoints/STEP, a file of weights, a folder of
    # Hugging Face's or nanoGPT's
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    to: Literal["lecture", "nanogpt", "gpt2", "run"]  # whose classes are to read it
    out: Path  # file or folder to make; never one that is there
    untold: Annotated[Untold, tyro.conf.arg(name="")] = field(default_factory=Untold)


def interop() -> int:
    arguments = read_arguments(Arguments, "jax_attn.interop")
    require_device()
    source = open_source(arguments.source, **arguments.untold.given())
    if arguments.to == "run":
        lines = export_run(source, arguments.out)
    else:
        lines = EXPORTS[arguments.to](source.model, source.tokenizer, arguments.out)
    for line in lines:
        print(line)
    return 0


def main() -> int:
    return command("jax_attn.interop", interop)


if __name__ == "__main__":
    sys.exit(main())

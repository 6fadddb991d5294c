"""How long a benchmark takes, said before it begins."""

import inspect
from typing import TypeVar

from jax_attn.runs.tyro_or_exit import read_arguments

Arguments = TypeVar("Arguments")

# On two cores with nothing beside it. The seven of the suite took 35 minutes together; the share of
# each is what the seconds in results/cpu-2-cores.json come to over its sides, runs and rounds. The
# others by their processor time; growth by the clock.
MINUTES = {
    "bigram": 2,
    "attention": 4,
    "training": 17,
    "generation": 5,
    "startup": 2,
    "memory": 1,
    "time_to_loss": 4,
    "growth": 4,
    "checkpoint": 1,
    "rounded_logits": 1,
}


def about(*names: str) -> str:
    """The minutes of all of these, in words."""
    return minutes(sum(MINUTES[name] for name in names)) + " on two cores"


def minutes(number: float) -> str:
    whole = max(1, round(number))
    return f"about {whole} minutes" if whole > 1 else "about a minute"


def read_command_line(arguments: type[Arguments], name: str) -> Arguments:
    """Of `python -m benchmarks.NAME`; its help says how long that takes."""
    what = f"{inspect.getdoc(arguments)}\n\nIt takes {about(name)}."
    return read_arguments(arguments, f"benchmarks.{name}", what)

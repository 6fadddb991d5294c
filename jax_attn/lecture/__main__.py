"""`python -m jax_attn.lecture`: the lecture's demonstrations beside what the notebooks print."""

import signal
import sys

if __name__ == "__main__":
    # There is nothing to save: Ctrl-C ends it at once, whatever is being imported or compiled.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
from itertools import zip_longest

import jax
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from jax_attn.compiling.backend import require_device
from jax_attn.console import VerbatimConsole, command
from jax_attn.lecture import (
    NOT_REPRODUCIBLE,
    PUBLISHED,
    Comparison,
    Published,
    compare,
    count_places,
    demonstrate,
)
from jax_attn.torch_replay.random import Generator

MAX_LINES = 10  # of one value


def show(console: VerbatimConsole, name: str, entry: Published, comparison: Comparison) -> None:
    """A line of what it is and whether it is the same, then ours and the printed side by side."""
    verdict = Text("ok", "green") if comparison.same else Text("DIFFERS", "bold red")
    if comparison.at_an_edge:
        verdict.append(f", {comparison.at_an_edge} at the edge of the last digit", "yellow")
    heading = Text.assemble((name, "bold"), "  ", verdict, ("  " + ", ".join(entry.places), "dim"))
    console.print(heading)
    if entry.note:
        console.print(Text(f"  {entry.note}", "dim"))
    ours, printed = _cut(comparison.ours), _cut(entry.printed)
    width = max(len(line) for line in (*ours, *printed, "jax_attn"))
    if 2 * width + 6 <= console.width:
        columns = [("jax_attn", ours), ("printed", printed)]
    else:  # one above the other
        columns = [("jax_attn", [*ours, "printed", *printed])]
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    for heading, _ in columns:
        table.add_column("  " + heading, no_wrap=True, overflow="ellipsis")
    for row in zip_longest(*(lines for _, lines in columns), fillvalue=""):
        table.add_row(*(Text("  " + line, "dim" if line == "printed" else "") for line in row))
    console.print(table)


def _cut(text: str) -> list[str]:
    lines = text.splitlines()
    if len(lines) <= MAX_LINES:
        return lines
    return [*lines[: MAX_LINES - 1], f"… {len(lines) - MAX_LINES + 1} more lines, compared too"]


def run(console: VerbatimConsole) -> int:
    """Shows everything; 0 if all is as printed, else 1."""
    same: set[str] = set()
    edges = 0
    for title, values in demonstrate(Generator):
        console.print(Rule(title, align="left"))
        for name, value in values.items():
            comparison = compare(value, PUBLISHED[name])
            show(console, name, PUBLISHED[name], comparison)
            edges += comparison.at_an_edge
            if comparison.same:
                same.add(name)
    console.print(Rule("Summary", align="left"))
    reproduced = count_places(PUBLISHED[name] for name in same)
    further = {name for name, entry in PUBLISHED.items() if not entry.notebook_places}
    console.print(
        f"{reproduced} of {count_places(PUBLISHED.values())} reproducible outputs of the five "
        f"notebooks, {len(further & same)} of {len(further)} of the lecture's repository; {edges} "
        "numbers at the edge of their last digit. Not reproducible:"
    )
    for place, reason in NOT_REPRODUCIBLE.items():
        console.print(Text(f"  {place}: {reason}"))
    return 0 if same == PUBLISHED.keys() else 1


def demonstrations() -> int:
    argparse.ArgumentParser(prog="python -m jax_attn.lecture", description=__doc__).parse_args()
    require_device()
    # Accelerators multiply float32 matrices in fewer bits unless told otherwise.
    jax.config.update("jax_default_matmul_precision", "highest")
    return run(VerbatimConsole())


def main() -> int:
    return command("jax_attn.lecture", demonstrations)


if __name__ == "__main__":
    sys.exit(main())

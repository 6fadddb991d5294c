"""Draws command lines for some minutes, and shows those that went wrong."""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.drawn.command_lines import CommandLine, draw
from tests.drawn.judge import faults
from tests.drawn.process import Outcome, carry_out, clear
from tests.drawn.texts import TEXTS

FIRST = CommandLine(
    "train",
    ("bigram", "--steps", "6", "--eval-every", "3", "--checkpoint-every", "3", "--block-size", "8"),
)


def drawn(
    seed: int, seconds: float, place: Path
) -> Iterator[tuple[CommandLine, Outcome, list[str]]]:
    """One after another until the time is over: what was drawn, what came of it, what is wrong."""
    dice = random.Random(seed)
    finished = place / "finished"
    clear(finished)
    first = carry_out(FIRST, finished, finished)
    yield FIRST, first, faults(FIRST, first)
    if not first.run.is_dir():
        raise SystemExit(f"the first run was not made, with exit code {first.code}: try again")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        line = draw(dice)
        assert line.text in TEXTS
        clear(place / "drawn")
        outcome = carry_out(line, place / "drawn", first.run)
        yield line, outcome, faults(line, outcome)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drawn", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    codes: Counter[str] = Counter()
    wrong = 0
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for line, outcome, found in drawn(arguments.seed, 60 * arguments.minutes, Path(folder)):
            codes[f"{line.program} {outcome.code}"] += 1
            if found:
                wrong += 1
                print(f"\n{line}\n  exit code {outcome.code}: {'; '.join(found)}")
                print(f"  {outcome.err.decode('utf-8', errors='replace')[-1500:]}", flush=True)
    print(f"\n{codes.total()} command lines, {wrong} went wrong; exit codes {dict(codes)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

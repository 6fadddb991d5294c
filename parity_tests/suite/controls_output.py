"""What the harness said of the control ports, for a terminal and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from jax_attn.console import VerbatimConsole
from parity_tests.ports import FAMILIES
from parity_tests.suite.controls import Answer, Finding, count
from parity_tests.suite.output import device

COLUMNS: tuple[tuple[str, Finding, bool], ...] = (
    ("same", "same", False),
    ("accused", "accused", False),
    ("raises", "raises", False),
    ("named", "named", True),
    ("elsewhere", "elsewhere", True),
    ("unnoticed", "unnoticed", True),
    ("raises", "raises", True),
)


def print_answers(console: VerbatimConsole, answers: Sequence[Answer]) -> None:
    """A row a family, both counts, and a line for every wrong answer."""
    table = Table(title=f"Correct ports, and planted faults, on {device()}", title_justify="left")
    table.add_column("family")
    for name in ("ports", *(name for name, _, _ in COLUMNS[:3])):
        table.add_column(name, justify="right")
    for name in ("faults", *(name for name, _, _ in COLUMNS[3:]), "seconds"):
        table.add_column(name, justify="right")
    for family in FAMILIES:
        own = [answer for answer in answers if answer.family == family]
        if own:
            table.add_row(family, *cells(own))
    table.add_section()
    table.add_row(Text("all", "bold"), *cells(answers))
    console.print(table)
    console.print(summary(answers))
    for answer in answers:
        if not answer.ok:
            console.print(Text.assemble(("wrong", "bold red"), f" {answer}"))


def cells(answers: Sequence[Answer]) -> list[str]:
    counts = [count(answers, finding, of_faults) for _, finding, of_faults in COLUMNS]
    ports, faults = sum(counts[:3]), sum(counts[3:])
    seconds = sum(answer.seconds for answer in answers)
    return [*map(str, [ports, *counts[:3], faults, *counts[3:]]), f"{seconds:.1f}"]


def summary(answers: Sequence[Answer]) -> str:
    ports = sum(not answer.fault for answer in answers)
    accused = count(answers, "accused", False)
    faults, named = len(answers) - ports, count(answers, "named", True)
    unnoticed = count(answers, "unnoticed", True)
    return (
        f"{accused} accusations of {ports} correct ports. {named} of {faults} planted faults are "
        f"named at the right layer and no other, {unnoticed} not noticed."
    )


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    record = {
        "device": device(),
        "accusations": count(answers, "accused", False),
        "named": count(answers, "named", True),
        "answers": [asdict(answer) for answer in answers],
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

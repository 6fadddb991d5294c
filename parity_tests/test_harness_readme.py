"""The README's example runs, and prints what the README says."""

import contextlib
import io
import re
from pathlib import Path

import torch

README = Path(__file__).with_name("README.md")


def test_the_readme_runs_as_printed() -> None:
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (expected,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    torch.manual_seed(0)
    names: dict = {"__name__": "readme"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, str(README), "exec"), names)
    assert len(blocks[1].strip().splitlines()) <= 11  # ten lines and the empty one
    assert _figureless(printed.getvalue()) == _figureless(expected)


def _figureless(text: str) -> list[str]:
    """Rounding differs from machine to machine: any number, in a column of any width, is 0."""
    return [re.sub(r" +", " ", re.sub(r"\d[\d.e+-]*", "0", line)) for line in text.split("\n")]

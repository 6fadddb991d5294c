"""The manual's pages on precision, state and decoding run as printed."""

import contextlib
import io
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "harness"
PAGES = (
    "lift_float32",
    "to_float64",
    "float32_islands",
    "compare_state",
    "compare_decoding",
    "budgets",
)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs_as_printed(name: str) -> None:
    page = FOLDER / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    assert all(sum(map(bool, block.splitlines())) <= 15 for block in blocks)
    names: dict = {"__name__": page.stem}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, page.name, "exec"), names)
    expected = "".join(re.findall(r"```text\n(.*?)```", text, re.DOTALL))
    assert _figureless(printed.getvalue()) == _figureless(expected)


def _figureless(text: str) -> list[str]:
    """Rounding differs from machine to machine."""
    return [re.sub(r"\d\.\de[+-]\d+", "0", line) for line in text.split("\n")]

"""Each page of the library's manual runs as printed, and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs" / "harness").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_as_printed(page: Path) -> None:
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

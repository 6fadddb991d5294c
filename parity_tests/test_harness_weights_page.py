"""The page on weights runs as it is printed."""

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "harness" / "weights.md"


def test_the_page_runs_as_printed() -> None:
    text = PAGE.read_text(encoding="utf-8")
    (expected,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    names: dict = {"__name__": "weights"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), names)
    assert printed.getvalue() == expected

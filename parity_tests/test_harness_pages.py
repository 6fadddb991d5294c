"""Every page of the manual runs as it is printed, and prints what it shows."""

import contextlib
import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest_plugins = ["parity_tests.plugin"]

README = Path(__file__).with_name("README.md")
FOLDER = Path(__file__).parents[1] / "docs" / "harness"
PAGES = {page.stem: page for page in (README, *sorted(FOLDER.glob("*.md")))}
BLOCK = re.compile(r"```(python|text)\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs_as_printed(name: str) -> None:
    """What is printed since the last block of text is the next one; none is left over."""
    _run(PAGES[name])


def test_the_tests_of_the_page_on_pytest_pass(parity: ModuleType) -> None:
    names = _run(PAGES["in_pytest"])
    tests = [test for name, test in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test(parity)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_two_screens_at_most(name: str) -> None:
    assert len(_text(PAGES[name]).splitlines()) <= 120


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("example_")])
def test_an_example_takes_fifteen_lines(name: str) -> None:
    """Besides the port: imports, the reference and its inputs, weights, the comparison."""
    _, check = _text(PAGES[name]).split("## The check")
    blocks = [block for kind, block in BLOCK.findall(check) if kind == "python"]
    assert 0 < sum(bool(line) for block in blocks for line in block.splitlines()) <= 15


def test_every_page_is_in_the_table() -> None:
    linked = set(re.findall(r"\.\./docs/harness/(\w+)\.md", _text(README)))
    assert linked == set(PAGES) - {"README"}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", BLOCK.sub("", _text(PAGES[name]))):
        assert (PAGES[name].parent / link).exists(), link


def _run(page: Path) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": page.stem}
    printed = io.StringIO()
    for kind, block in BLOCK.findall(_text(page)):
        if kind == "python":
            with contextlib.redirect_stdout(printed):
                exec(compile(block, page.name, "exec"), names)
        else:
            assert _figureless(printed.getvalue()) == _figureless(block)
            printed = io.StringIO()
    assert printed.getvalue() == ""
    return names


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _figureless(text: str) -> list[str]:
    """Rounding differs from machine to machine: no decimals, nor which entry or check is worst."""
    text = re.sub(r"-?\d+(\.\d+(e[+-]\d+)?|e[+-]\d+)", "0", text)
    text = re.sub(r" at \[[\d, ]*\]", " at []", text)
    text = re.sub(r"the nearest is .*?: ratio", "the nearest is: ratio", text)
    return [re.sub(r" +", " ", line) for line in text.split("\n")]

"""How people meet the package: as a fixture, as a README, with nothing else, without torch."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch

pytest_plugins = ["parity_tests.plugin"]

README = Path(__file__).with_name("README.md")


def test_the_fixture_is_the_package_in_float64(parity: Any) -> None:
    """Port-check in one line: x64 is on and products are exact."""
    assert jnp.ones(1).dtype == jnp.float64
    assert "HIGHEST" in str(jax.make_jaxpr(jnp.dot)(jnp.ones(2), jnp.ones(2)))
    parity.assert_parity(torch.ones(2).double(), jnp.ones(2))
    assert not parity.compare(torch.ones(2).double(), 1.1 * jnp.ones(2)).ok


def test_without_the_fixture_x64_is_off() -> None:
    assert jnp.ones(1).dtype == jnp.float32


def test_without_torch_there_is_one_clear_line() -> None:
    code = "import sys; sys.modules['torch'] = None; import parity_tests"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: parity_tests needs PyTorch")
    assert "pip install -e '.[test]'" in last
    assert "During handling" not in run.stderr


def test_the_library_brings_neither_models_nor_frameworks_of_its_own() -> None:
    """It costs little beside torch, jax and flax, whose own import is not ours to shorten."""
    code = """
import sys, time
import jax, torch
from flax import nnx
before, started = set(sys.modules), time.process_time()
import parity_tests
print(time.process_time() - started)
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, packages = run.stdout.strip().splitlines()
    assert float(seconds) < 1
    foreign = {"jax_attn", "torch_ref", "transformers", "equinox", "pytest", "optax"}
    assert not foreign & set(packages.split())


def test_the_readme_runs_as_printed() -> None:
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (expected,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
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

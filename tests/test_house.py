"""Rules of the house: who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("jax_attn", {"torch", "torch_ref", "parity_tests"}),
        ("torch_ref", {"jax", "flax", "optax", "jax_attn", "parity_tests"}),
    ],
)
def test_who_never_imports_whom(package, forbidden):
    files = list((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    for path in files:
        assert not forbidden & set(imported(path)), path


def test_importing_the_package_is_light():
    """Neither torch nor what only checkpoints, pictures, downloads and the command line need."""
    heavy = ("torch", "orbax", "tensorstore", "matplotlib", "pooch", "tyro", "transformers")
    code = f"import jax_attn, sys; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_configurations_are_jax_free():
    path = ROOT / "jax_attn" / "config.py"
    assert not {"jax", "flax", "optax"} & set(imported(path))

"""How people meet the package: as a pytest fixture, with nothing else, and without torch."""

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import torch

pytest_plugins = ["parity_tests.plugin"]


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
    code = """
import sys
import jax, torch
from flax import nnx
before = set(sys.modules)
import parity_tests
new = set(sys.modules) - before
print(*{name.partition(".")[0] for name in new} | {n for n in new if n.startswith("flax.")})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    foreign = {"jax_attn", "torch_ref", "transformers", "equinox", "pytest", "optax"}
    assert not {n for n in run.stdout.split() if n in foreign or n.startswith("flax.linen")}

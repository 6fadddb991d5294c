"""A pytest fixture for ports of your own: `pytest_plugins = ["parity_tests.plugin"]`."""

from collections.abc import Iterator
from types import ModuleType

import jax
import pytest

import parity_tests


@pytest.fixture
def parity() -> Iterator[ModuleType]:
    """`parity_tests` itself, with x64 on and exact matrix products as long as the test lasts.

    def test_my_port(parity): parity.assert_parity(torch_output, jax_output)
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield parity_tests

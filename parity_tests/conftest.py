"""Of a test run of this package."""

from collections.abc import Iterator

import jax
import pytest

from parity_tests.small_pairs import float64


@pytest.fixture
def in_float64() -> Iterator[None]:
    with float64():
        yield


@pytest.fixture(scope="module", autouse=True)
def programs_are_let_go(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of other people's layers: thousands of small programs that no other file runs again."""
    yield
    if request.module.__name__.rpartition(".")[2].startswith(("test_harness", "test_ports")):
        jax.clear_caches()

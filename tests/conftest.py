"""One strict harness for all tests: highest matmul precision, no silent rank promotion."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jaxtyping
import pytest

jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture
def unchecked():
    """Annotations unchecked, as users run the package, to see its own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def x64():
    """float64 on the JAX side for one test."""
    with jax.enable_x64(True):
        yield

"""Programs that run a few times each: compiled without being optimized."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def quickly_compiled() -> Iterator[None]:
    """While this lasts. To optimize a small program takes longer than it saves."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)
